"""Set-up lines mean, to the shell or in the file they are for, what was put into them."""

from __future__ import annotations

import ast
import json
import subprocess
import tomllib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opuslive.set_up import SetUp, claude_code, clients, codex, literal, powershell, toml

URL = "https://ai.example.com/a'b"
KEY = "sk-ant-ol-abcdefgh-0123456789"
#: Names of models as the configuration may have them.
ODD = [
    "it's",
    'a "quoted" model',
    "back\\slash\\n",
    "$HOME `id` $(id) %PATH% !x",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{HOT BEVERAGE}\N{GRINNING FACE}",
    "\N{RIGHT SINGLE QUOTATION MARK}; calc #",
    "a]b[c=d",
    "# no comment",
    "'''",
    "-n",
    "~",
]
#: Models of both dialects.
BOTH: dict[str, str | None] = {"anthropic": "one", "openai": "other"}
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


def lines_for(place: str, all_lines: Sequence[SetUp]) -> str:
    (text,) = [lines.text for lines in all_lines if lines.place == place]
    return text


def read_by_bash(text: str, *names: str) -> list[str]:
    """The values of variables once bash has run the lines, less the client's own."""
    script = (
        "\n".join(text.split("\n")[:-1]) + "\nprintf '%s\\0' " + " ".join(f'"${n}"' for n in names)
    )
    run = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={})
    assert run.stderr == b""
    return run.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("model", ODD)
class TestOddNames:
    def test_are_what_bash_reads(self, model: str) -> None:
        text = lines_for("bash", claude_code(URL, KEY, model))
        names = ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL")
        assert read_by_bash(text, *names) == [URL, KEY, model]
        assert read_by_bash(text, "CLAUDE_CODE_USE_GATEWAY") == ["1"]

    def test_are_what_python_reads(self, model: str) -> None:
        for name, base_url in (("Anthropic SDK", URL), ("OpenAI SDK", f"{URL}/v1")):
            (told,) = (
                each for each in clients(URL, KEY, BOTH | {"openai": model}) if each.name == name
            )
            tree = ast.parse(lines_for("Python", told.set_ups))
            read = {
                keyword.arg: ast.literal_eval(keyword.value)
                for call in ast.walk(tree)
                if isinstance(call, ast.Call)
                for keyword in call.keywords
            }
            assert (read["base_url"], read["api_key"]) == (base_url, KEY)
            assert read["model"] == (model if name == "OpenAI SDK" else "one")

    def test_are_what_curl_sends(self, model: str) -> None:
        (told,) = (each for each in clients(URL, KEY, {"anthropic": model}) if each.name == "curl")
        (lines,) = told.set_ups
        script = f"curl() {{ printf '%s\\0' \"$@\"; }}\n{lines.text}"
        run = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={})
        url, *options, body = run.stdout.decode().split("\0")[:-1]
        assert url == f"{URL}/v1/messages"
        assert f"x-api-key: {KEY}" in options
        assert json.loads(body)["model"] == model

    def test_are_what_the_settings_say(self, model: str) -> None:
        text = lines_for("~/.claude/settings.json", claude_code(URL, KEY, model))
        assert json.loads(text) == {
            "env": {
                "CLAUDE_CODE_USE_GATEWAY": "1",
                "ANTHROPIC_BASE_URL": URL,
                "ANTHROPIC_AUTH_TOKEN": KEY,
                "ANTHROPIC_MODEL": model,
            }
        }

    def test_are_what_the_file_of_codex_says(self, model: str) -> None:
        assert tomllib.loads(lines_for("~/.codex/config.toml", codex(URL, KEY, model))) == {
            "model": model,
            "model_provider": "opuslive",
            "model_providers": {
                "opuslive": {
                    "name": "OpusLive",
                    "base_url": f"{URL}/v1",
                    "wire_api": "responses",
                    "env_key": "OPUSLIVE_API_KEY",
                }
            },
        }


def test_a_quotation_mark_of_any_kind_ends_no_text_of_powershell() -> None:
    """As its own rules are: in single quotes nothing is special but the quotes themselves, of which
    two stand for one, and it takes four more characters for them."""
    assert powershell('plain $x `n "q"') == "'plain $x `n \"q\"'"
    for quote in "'\u2018\u2019\u201a\u201b":
        assert powershell(f"a{quote}b") == f"'a{quote}{quote}b'"
    text = lines_for("PowerShell", claude_code("https://h", KEY, "it's"))
    assert text.split("\n") == [
        "$env:CLAUDE_CODE_USE_GATEWAY = '1'",
        "$env:ANTHROPIC_BASE_URL = 'https://h'",
        f"$env:ANTHROPIC_AUTH_TOKEN = '{KEY}'",
        "$env:ANTHROPIC_MODEL = 'it''s'",
        "claude",
    ]


def test_the_key_of_codex_is_in_the_environment_alone() -> None:
    all_lines = codex("https://h", KEY, None)
    assert read_by_bash(lines_for("bash", all_lines), "OPUSLIVE_API_KEY") == [KEY]
    assert lines_for("PowerShell", all_lines) == f"$env:OPUSLIVE_API_KEY = '{KEY}'\ncodex"
    assert KEY not in lines_for("~/.codex/config.toml", all_lines)


@pytest.mark.parametrize("client", [claude_code, codex])
def test_without_a_model_the_client_takes_its_own(
    client: Callable[[str, str, str | None], Sequence[SetUp]],
) -> None:
    assert not any(
        "model =" in each.text or "MODEL" in each.text for each in client(URL, KEY, None)
    )
    assert len({each.id for each in client(URL, KEY, None)}) == 3


def test_each_client_is_there_for_the_dialects_that_are() -> None:
    names = {name: [each.name for each in clients(URL, KEY, {name: None})] for name in BOTH}
    assert names == {
        "anthropic": ["Claude Code", "Anthropic SDK", "AI SDK", "curl"],
        "openai": ["Codex CLI", "OpenAI SDK", "AI SDK", "curl"],
    }
    assert clients(URL, KEY, {"nobody's": None}) == []
    all_lines = [each for client in clients(URL, KEY, BOTH) for each in client.set_ups]
    assert [each.client for each in all_lines].count("AI SDK") == 2
    # They name buttons and what those copy.
    assert len({each.id for each in all_lines}) == len(all_lines)


@given(NAMES)
@example("\x7f")
@settings(derandomize=True, database=None)
def test_any_text_is_read_back_from_toml(text: str) -> None:
    assert tomllib.loads(f"value = {toml(text)}") == {"value": text}


@given(NAMES)
@example("\x7f")
@settings(derandomize=True, database=None)
def test_any_text_is_read_back_from_python_and_json(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text
    assert json.loads(literal(text)) == text
