"""``opuslive keys``: the same with and without a running server."""

from __future__ import annotations

import re
import shlex
import time
import tomllib
from typing import Any

import pytest
from rich.cells import cell_len

from opuslive.usage import TokenCounts
from tests.support.keys import a_key, a_record
from tests.support.workplace import SERVED, UPSTREAM, MakeWorkplace, Workplace

pytestmark = SERVED

KEY = {
    "id",
    "name",
    "prefix",
    "group",
    "enabled",
    "created_at",
    "expires_at",
    "previous_secret_expires_at",
    "invitation_expires_at",
    "models",
    "limits",
    "raises",
}
SHOWN = KEY | {
    "state",
    "last_used_at",
    "counts_since",
    "usage",
    "standing",
    "exhausted_by",
    "expires_soon",
    "warnings",
}
SECRET = KEY | {"key", "warnings"}
USAGE = {
    "requests",
    "served",
    "client_errors",
    "upstream_errors",
    "cut",
    "refusals",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
}


def test_a_key_is_made_changed_rotated_and_deleted(either_way: Workplace) -> None:
    work = either_way
    options = ["--limit", "60 requests / 60s", "--limit", "2000000 tokens/5h", "--group", "friends"]
    options += ["--model", "claude-*", "--model", "gpt-4", "--expires", "2099-12-31"]
    made = work.create_key("alice", *options)
    assert made.keys() == SECRET
    assert made["key"].startswith(made["prefix"] + "-")
    assert made["prefix"].endswith(made["id"])
    assert made["limits"] == ["60 requests/1m", "2M tokens/5h"]
    assert (made["models"], made["group"]) == (["claude-*", "gpt-4"], "friends")
    assert (made["enabled"], made["expires_at"]) == (True, "2100-01-01T00:00:00Z")

    shown = work.json("keys", "show", made["prefix"])
    assert shown.keys() == SHOWN
    assert {name: shown[name] for name in KEY} == {name: made[name] for name in KEY}
    assert shown["usage"] == dict.fromkeys(USAGE, 0)
    assert (shown["state"], shown["last_used_at"]) == ("enabled", None)
    assert work.json("keys", "list") == [shown]

    changes = ["--name", "alicia", "--no-limits", "--all-models", "--never-expires", "--no-group"]
    updated = work.json("keys", "update", "alice", *changes)
    cleared: dict[str, Any] = {
        "limits": [],
        "standing": [],
        "models": [],
        "expires_at": None,
        "group": None,
        "name": "alicia",
        "warnings": [],
    }
    assert updated == shown | cleared
    disabled = work.json("keys", "disable", "alicia")
    assert disabled == updated | {"enabled": False, "state": "disabled"}
    assert work.json("keys", "enable", made["id"]) == updated

    rotated = work.json("keys", "rotate", "alicia", "--grace", "24h")
    assert rotated.keys() == SECRET
    assert rotated["key"] != made["key"]
    assert rotated["previous_secret_expires_at"] is not None

    deleted = work.json("keys", "delete", "alicia", "--yes")
    assert deleted.keys() == KEY | {"erased_records", "no_longer_counts"}
    assert (deleted["erased_records"], deleted["no_longer_counts"]) == (0, [])
    empty = work.run("keys", "list")
    assert (empty.status, empty.err) == (0, "")
    assert "no keys yet" in empty.out
    assert made["id"].encode() not in work.database_files()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("create", "taken"), "taken"),
        (("create", "new", "--limit", "60 reqests/1m"), "requests"),
        (("rotate", "other", "--grace", "-1h"), "-1h"),
        (("create", "new", "--limit", "1 concurrent", "--limit", "2 concurrent"), "same thing"),
        (("create", "new", "--expires", "2001-01-01"), "passed"),
        (("update", "other", "--name", "taken"), "taken"),
        (("show", "nobody"), "no key"),
        (("create", "\udcff"), "UTF-8"),
        (("show", "\udcff"), "UTF-8"),
    ],
)
def test_what_the_gateway_refuses_is_one_sentence_and_changes_nothing(
    either_way: Workplace, arguments: tuple[str, ...], named: str
) -> None:
    either_way.create_key("taken")
    either_way.create_key("other")
    assert named in either_way.run("keys", *arguments).complaint
    assert {key["name"] for key in either_way.json("keys", "list")} == {"taken", "other"}


def set_up_lines(printed: str, title: str) -> list[str]:
    """The lines below the title, for one place."""
    lines = printed.partition(f"\n{title}:\n\n")[2].partition("\n\n")[0]
    return [line.strip() for line in lines.rstrip().split("\n")]


def test_a_new_key_comes_with_the_lines_that_set_its_holders_client_up(
    make_workplace: MakeWorkplace,
) -> None:
    server = {"public_url": "https://ai.example.com"}
    work = make_workplace(UPSTREAM, server=server, upstream={"models": ["claude-*", "it's mine"]})
    for options in (["--model", "claude-*"], ["--model", "it's*"]):
        printed = work.run("keys", "create", f"for {options[1]}", *options).out
        key = printed.split("\n")[0]
        model = "it's mine" if "it's*" in options else None
        variables = {
            "CLAUDE_CODE_USE_GATEWAY": "1",
            "ANTHROPIC_BASE_URL": "https://ai.example.com",
            "ANTHROPIC_AUTH_TOKEN": key,
            **({} if model is None else {"ANTHROPIC_MODEL": model}),
        }
        assert set_up_lines(printed, "Claude Code, bash") == [
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            "claude",
        ]
        assert "$env:" not in printed
        assert printed.endswith("SDKs, the AI SDK and curl:\n\n  https://ai.example.com/\n")
        assert "Codex" not in printed
        # What is no value is read in a window of 80 columns.
        assert all(len(line) <= 80 for line in printed.split("\n") if key not in line)


def test_a_key_for_openais_format_comes_with_the_lines_for_codex(
    make_workplace: MakeWorkplace,
) -> None:
    openai = {"dialect": "openai", "models": ["gpt-5.3", "qwen-*"]}
    work = make_workplace(UPSTREAM, server={"port": 9123}, upstream=openai)
    printed = work.run("keys", "create", "one").out
    key = printed.split("\n")[0]
    assert set_up_lines(printed, "Codex CLI, bash") == [f"export OPUSLIVE_API_KEY={key}", "codex"]
    file = printed.partition("config.toml:\n")[2]
    read = tomllib.loads(file[file.index("model =") :].partition("\nFor PowerShell")[0])
    assert read["model"] == "gpt-5.3"
    assert read["model_providers"]["opuslive"]["base_url"] == "http://127.0.0.1:9123/v1"
    assert "Claude Code" not in printed


def test_a_server_that_runs_tells_which_models_it_has(make_workplace: MakeWorkplace) -> None:
    work = make_workplace(UPSTREAM, upstream={"models": ["claude-own", "claude-*"]})
    with work.serving():
        printed = work.run("keys", "create", "one").out
        assert work.admin("GET", "keys", "one", "models") == {"anthropic": ["claude-own"]}
    assert "export ANTHROPIC_MODEL=claude-own\n" in printed


def test_a_key_that_is_printed_works_and_is_printed_once(workplace: Workplace) -> None:
    with workplace.serving():
        created = workplace.run("keys", "create", "Zoë [bold]", "--limit", "8 concurrent")
        credential = created.out.splitlines()[0]
        assert workplace.request("GET", "/v1/usage", key=credential).status == 200
    assert "only time" in created.out
    assert "'Zoë [bold]' is kept" in created.out
    secret = credential.rpartition("-")[2]
    for command in (["list"], ["show", "Zoë [bold]"], ["list", "--json"]):
        outcome = workplace.run("keys", *command)
        assert outcome.status == 0
        assert secret not in outcome.out
        assert "\x1b" not in outcome.out  # no colours where nobody looks
    rotated = workplace.run("keys", "rotate", "Zoë [bold]", "--grace", "1h")
    assert rotated.out.splitlines()[0].startswith("sk-ant-ol-")
    assert "The old secret works until" in rotated.out


def test_a_group_without_limits_is_noted(workplace: Workplace) -> None:
    made = workplace.run("keys", "create", "alice", "--group", "freinds")
    assert made.status == 0
    assert made.err == (
        "Note: [limits.groups] has no group 'freinds', so its keys share no limits. It has no "
        "groups.\n"
    )


def test_tables_show_a_key_and_what_it_used(workplace: Workplace) -> None:
    name = "A name that is long, but not too long"
    key = a_key(1, name=name, limits=("8 concurrent",))
    workplace.fill([key], [a_record(1, latency_ms=1), a_record(1, latency_ms=2)])
    listed = workplace.run("keys", "list").out
    (row,) = (line for line in listed.splitlines() if key.id in line)
    assert row.startswith(f"{name}  ")
    assert "8 concurrent" in row
    shown = workplace.run("keys", "show", key.prefix).out
    above, below = shown.split("\n\n")
    fields = dict(line.split("  ", 1) for line in above.splitlines())
    assert fields["id"].strip() == key.id
    assert fields["output tokens"].strip() == "40"
    assert fields["requests"].strip() == "2, and 0 refused"
    assert [line.split("  ")[0] for line in below.splitlines()] == ["limit", "8 concurrent"]


def test_delete_asks_and_takes_no_answer_for_a_no(workplace: Workplace) -> None:
    workplace.create_key("asked about")
    refused = workplace.run("keys", "delete", "asked about", input_="n\n")
    assert refused.status == 1
    assert "Delete the key 'asked about'" in refused.err
    assert workplace.run("keys", "delete", "asked about").status == 1
    assert workplace.run("keys", "show", "asked about").status == 0
    done = workplace.run("keys", "delete", "asked about", input_="y\n")
    assert (done.status, done.out.startswith("Deleted the key 'asked about'")) == (0, True)
    assert workplace.run("keys", "show", "asked about").complaint


def test_delete_says_how_much_of_shared_limits_no_longer_counts(
    make_workplace: MakeWorkplace,
) -> None:
    shared = {"gateway": ["1M tokens/7d"], "groups": {"friends": ["100k output_tokens/7d"]}}
    work = make_workplace(limits=shared)
    now = time.time_ns() // 1_000_000
    work.fill(
        [a_key(1, name="alice", group="friends")],
        [a_record(1, time=now, latency_ms=1, tokens=TokenCounts(input=500, output=1500))],
    )
    said = work.run("keys", "delete", "alice", "--yes").out
    assert "2,000 of the limit of the gateway, 1M tokens/7d, no longer count.\n" in said
    assert (
        "1,500 of the limit of the group 'friends', 100k output_tokens/7d, no longer count.\n"
        in said
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["nonsense"],
        ["update", "x"],
        ["update", "x", "--limit", "8 concurrent", "--no-limits"],
    ],
)
def test_wrong_usage_prints_nothing_and_ends_with_2(
    workplace: Workplace, arguments: list[str]
) -> None:
    outcome = workplace.run("keys", *arguments)
    assert (outcome.status, outcome.out) == (2, "")


def test_many_keys_come_in_pages(workplace: Workplace) -> None:
    workplace.fill([a_key(number) for number in range(501)])
    with workplace.serving():
        listed = [key["name"] for key in workplace.json("keys", "list")]
        assert listed == [f"name of {number}" for number in range(501)]
        page = workplace.admin("GET", "keys")
    assert [key["name"] for key in page["items"]] == listed[:100]
    assert page["next"].endswith("-" + page["items"][-1]["id"])


def test_a_key_shows_what_of_its_limits_is_used_left_and_when_it_frees(
    make_workplace: MakeWorkplace,
) -> None:
    shared = {"gateway": ["1M tokens/7d"], "groups": {"friends": ["2 usd/month"]}}
    work = make_workplace(limits=shared)
    now = time.time_ns() // 1_000_000
    key = a_key(1, name="alice", group="friends", limits=("2k tokens/5h", "8 concurrent"))
    used = TokenCounts(input=500, output=1_500)
    work.fill([key], [a_record(1, time=now, latency_ms=1, tokens=used)])
    shown = work.json("keys", "show", "alice")
    assert [(each["scope"], each["group"], each["limit"]) for each in shown["standing"]] == [
        ("key", None, "2k tokens/5h"),
        ("key", None, "8 concurrent"),
        ("group", "friends", "2 usd/month"),
        ("gateway", None, "1M tokens/7d"),
    ]
    assert shown["state"] == "exhausted"
    assert shown["exhausted_by"] == [{"scope": "key", "group": None, "limit": "2k tokens/5h"}]
    printed = work.run("keys", "show", "alice").out
    assert re.search(r"^state +exhausted by 2k tokens/5h \(its own\)$", printed, re.MULTILINE)
    frees = shown["standing"][0]["frees_at"]
    table = [re.split(r" {2,}", line.strip()) for line in printed.split("\n\n")[1].splitlines()]
    assert table[0] == ["limit", "of", "used", "left", "reserved", "more frees"]
    assert table[1] == ["2k tokens/5h", "the key", "2,000", "0", "0", frees]
    assert table[4][:4] == ["1M tokens/7d", "the gateway", "2,000", "998,000"]
    listed = work.run("keys", "list").out
    assert " exhausted: own " in listed
    report = work.run("usage").out
    assert re.search(r"^2 usd/month +group friends +", report, re.MULTILINE)
    assert "2k tokens/5h" not in report
    assert "2k tokens/5h" in work.run("usage", "alice").out


def test_an_expiry_at_the_end_of_a_day_is_shown_as_that_day(workplace: Workplace) -> None:
    made = workplace.create_key("alice", "--expires", "2097-06-30")
    assert made["expires_at"] == "2097-07-01T00:00:00Z"
    workplace.create_key("bob", "--expires", "2097-07-01T12:00:00Z")
    listed = workplace.run("keys", "list").out
    assert re.search(r"^alice .* 2097-06-30 ", listed, re.MULTILINE)
    assert re.search(r"^bob .* 2097-07-01 ", listed, re.MULTILINE)
    shown = workplace.run("keys", "show", "alice").out
    assert re.search(r"^expires +2097-06-30 *$", shown, re.MULTILINE)
    shown = workplace.run("keys", "show", "bob").out
    assert re.search(r"^expires +2097-07-01T12:00:00Z *$", shown, re.MULTILINE)
    assert workplace.json("keys", "show", "alice")["expires_at"] == made["expires_at"]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_a_list_of_keys_fits_a_terminal_with_every_name_and_no_wrong_number(
    workplace: Workplace, columns: int
) -> None:
    names = ["alice", "a" * 100, "没有人知道这个名字有多长因为它一直继续下去没有尽头"]
    keys = [a_key(at, name=name, limits=("2M tokens/5h",)) for at, name in enumerate(names)]
    used = TokenCounts(input=26_000_000, output=839_085)
    workplace.fill(keys, [a_record(0, latency_ms=1, tokens=used)])
    outcome = workplace.run("keys", "list", FORCE_COLOR="1", COLUMNS=str(columns), NO_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)
    assert all(cell_len(line.rstrip()) <= columns for line in plain.splitlines())
    assert all(key.id in plain for key in keys)
    assert plain.count("a") >= 100
    numbers = set(re.findall(r"(?<=  )[0-9][0-9,.]*[kMBT]?(?=  |\n)", plain))
    assert numbers <= {"26,839,085", "26.8M", "0", "1"}
    assert numbers & {"26,839,085", "26.8M"} or "tokens" in outcome.err
    wide = workplace.run(
        "keys", "list", "--wide", FORCE_COLOR="1", COLUMNS=str(columns), NO_COLOR="1"
    )
    assert (wide.err, "26,839,085" in wide.out, "a" * 100 in wide.out) == ("", True, True)
