"""Set-up lines mean, to the shell or in the file they are for, what was put into them."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opuslive.set_up import SetUp, claude_code, codex, powershell, toml

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


@given(NAMES)
@example("\x7f")
@settings(derandomize=True, database=None)
def test_any_text_is_read_back_from_toml(text: str) -> None:
    assert tomllib.loads(f"value = {toml(text)}") == {"value": text}
