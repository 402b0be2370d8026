"""``opuslive usage``: the same figures with and without a server, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace

from opuslive.times import DAY_MS
from opuslive.usage import TokenCounts
from tests.support.keys import a_key, a_record, a_refusal
from tests.support.workplace import SERVED, UPSTREAM, MakeWorkplace, Workplace

pytestmark = SERVED


@pytest.fixture
def used(make_workplace: MakeWorkplace) -> Workplace:
    """Two keys that were used, and one that was not."""
    # A micro-dollar for each token.
    work = make_workplace(UPSTREAM, prices={"claude-test-1": {"input": 1.0, "output": 1.0}})
    now = time.time_ns() // 1_000_000
    names = ("little [b]", "much", "none")
    work.fill(
        [a_key(number, name=name) for number, name in enumerate(names)],
        [
            a_record(key, time=now - at, model="claude-test-1", tokens=TokenCounts(5, output))
            for at, (key, output) in enumerate([(0, 3), (1, 50), (1, 60_050)])
        ],
    )
    return work


def test_reports_with_a_server_and_without_are_the_same(used: Workplace) -> None:
    commands: list[list[str]] = [
        ["usage"],
        ["usage", "much"],
        ["usage", "much", "--by", "key"],
        ["usage", "--by", "model", "--since", "1d"],
        ["usage", "--by", "hour"],
    ]
    with used.serving():
        running = [used.json(*command) for command in commands]
    assert [report["by"] for report in running] == ["key", "day", "key", "model", "hour"]
    outputs = [report["totals"]["output_tokens"] for report in running]
    assert outputs == [60_103, 60_100, 60_100, 60_103, 60_103]
    for command, report in zip(commands, running, strict=True):
        again = used.json(*command)
        assert again | {"until": report["until"], "since": report["since"]} == report
        assert used.run(*command, "--format", "json").json()["series"] == report["series"]


def test_a_table_has_a_row_and_a_bar_for_each_key(used: Workplace) -> None:
    by_key = used.run("usage")
    title, _, head, much, little, total, *_ = by_key.out.splitlines()
    assert title.startswith("Usage from 20")
    assert head.split() == ["key", "requests", "input", "output", "tokens", "usd", "share"]
    assert much.split() == ["much", "2", "10", "60,100", "60,110", "0.06", "99%", "█" * 24]
    assert little.split() == ["little", "[b]", "1", "5", "3", "8", "<0.01", "<0.1%", "▏"]
    assert total.split() == ["total", "3", "15", "60,103", "60,118", "0.06", "100%"]
    assert "\x1b" not in by_key.out


def test_tables_by_day_and_by_model(used: Workplace) -> None:
    by_day, by_model = used.run("usage", "much"), used.run("usage", "--by", "model")
    assert "Usage of the key 'much' from" in by_day.out
    assert by_day.out.splitlines()[3].startswith("20")
    assert by_model.out.splitlines()[3].startswith("claude-test-1 ")


def test_a_key_that_was_not_used_has_a_sentence(used: Workplace) -> None:
    unused = used.run("usage", "none", "--since", "30d")
    assert unused.out.startswith("Nothing was used since 20")
    assert unused.out.endswith("of the key 'none'.\n")


def test_on_a_narrow_terminal_figures_stay_whole(used: Workplace) -> None:
    used.json("keys", "update", "much", "--name", "a long name that " * 5 + "ends")
    for columns in (60, 80, 120):
        outcome = used.run("usage", FORCE_COLOR="1", COLUMNS=str(columns), NO_COLOR="1")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)
        assert all(len(line.rstrip()) <= columns for line in plain.splitlines()[2:])
        assert {"60,103", "60.1k"} & set(plain.split())
        assert " ".join(plain.split()).count("long name") >= 1
    assert "█" in plain


def test_json_and_another_format_are_not_both_given(used: Workplace) -> None:
    for form in ("csv", "table"):
        outcome = used.run("usage", "--json", "--format", form)
        assert (outcome.status, outcome.out) == (2, "")
        assert f"Give --json or --format {form}, not both." in outcome.err
    assert used.run("usage", "--json", "--format", "json").status == 0


def test_csv_has_exact_figures(used: Workplace) -> None:
    outcome = used.run("usage", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [(row["name"], row["requests"]) for row in rows] == [("much", "2"), ("little [b]", "1")]
    by_model = used.run("usage", "much", "--by", "model", "--format", "csv")
    assert by_model.out.splitlines() == [
        "model,requests,refusals,served,client_errors,upstream_errors,cut,input_tokens,"
        "output_tokens,cache_read_tokens,cache_write_tokens,usd,latency_median_ms,latency_p95_ms",
        "claude-test-1,2,0,2,0,0,0,10,60100,0,0,0.06011,1500,1950",
    ]
    by_status = used.run("usage", "--by", "status", "--format", "csv")
    assert by_status.out.splitlines() == ["status,requests,share", "served,3,1.0"]


@pytest.fixture
def troubled(make_workplace: MakeWorkplace) -> Workplace:
    """Two keys, one in a group, whose requests ended in every way, ten days ago and two."""
    work = make_workplace(UPSTREAM, prices={"claude-test-1": {"input": 1.0, "output": 1.0}})
    now = time.time_ns() // 1_000_000
    keys = [a_key(1, name="much", group="friends"), a_key(2, name="little")]
    tokens = TokenCounts(500_000, 500_000)
    records = [
        a_record(1, time=now - 2 * DAY_MS, status=status, model="claude-test-1", tokens=tokens)
        for status in (200, 200, 400, 429, 499, 502)
    ]
    records += [a_refusal(2, time=now - 2 * DAY_MS)]
    records += [
        a_record(1, time=now - 10 * DAY_MS, model="claude-test-1", tokens=tokens) for _ in range(4)
    ]
    work.fill(keys, records)
    return work


def test_how_requests_ended_is_told_by_status_and_below_every_report(troubled: Workplace) -> None:
    by_status = troubled.run("usage", "--by", "status").out.splitlines()
    assert [line.split()[:-1] for line in by_status[3:8]] == [
        ["served", "2", "28%"],
        ["client", "errors", "1", "14%"],
        ["upstream", "trouble", "2", "28%"],
        ["cut", "by", "the", "client", "1", "14%"],
        ["recorded", "refusals", "1", "14%"],
    ]
    assert by_status[8].split() == ["total", "7", "100%"]
    for by in ("key", "group", "model", "day", "status"):
        lines = troubled.run("usage", "--by", by).out.splitlines()
        assert (
            "Answers: 2 served, 1 client error, 2 upstream trouble, 1 cut by the client, "
            "1 refused here."
        ) in lines
        assert "Latency: about 1.5 s in the median, 95% within 1.9 s." in lines
        assert "50% more tokens than the 7 days before; cost: 50% more." in lines


def test_models_have_latencies(troubled: Workplace) -> None:
    head = troubled.run("usage", "--by", "model", COLUMNS="200").out.splitlines()[2]
    assert {"median", "p95"} <= set(head.split())
    assert "median" not in troubled.run("usage", "--by", "key").out.splitlines()[2]


def test_groups_have_rows_and_ranges_have_ends(troubled: Workplace) -> None:
    rows = troubled.json("usage", "--by", "group")["series"]
    assert [(row["group"], row["requests"]) for row in rows] == [("friends", 6), (None, 0)]
    table = troubled.run("usage", "--by", "group")
    assert "friends" in table.out
    assert "(no group)" in table.out
    assert "Note: [limits.groups] has no group 'friends'" in table.err
    earlier = troubled.json("usage", "--since", "30d", "--until", "5d")
    assert earlier["totals"]["requests"] == 4
    refused = troubled.run("usage", "--since", "1d", "--until", "2d")
    assert "'until' has to be later" in refused.complaint


def test_names_that_would_be_formulas_are_texts_in_csv_and_exact_in_json(
    workplace: Workplace,
) -> None:
    names = ["=1+1", "@cmd", "+1", "-1"]
    models = ["=2+2", "-2", "+2", "@m"]
    workplace.fill(
        [a_key(number, name=name) for number, name in enumerate(names)],
        [a_record(number, model=model) for number, model in enumerate(models)],
    )
    since = ["--since", "2026-01-01"]
    for by, column, written in (("key", "name", names), ("model", "model", models)):
        done = workplace.run("usage", *since, "--by", by, "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert {row[column] for row in rows} == {f"'{text}" for text in written}
        assert {row["requests"] for row in rows} == {"1"}
        report = workplace.json("usage", *since, "--by", by)
        assert {row[column] for row in report["series"]} == set(written)


def test_names_of_models_that_would_be_formulas_are_texts_in_exports_and_exact_in_json(
    workplace: Workplace,
) -> None:
    made = workplace.create_key("exported")
    record = replace(a_record(model="=2+2"), key_id=made["id"])
    workplace.fill([], [record])
    kind = [("Content-Type", "application/x-www-form-urlencoded")]
    form = urlencode({"key": made["key"], "format": "csv"}).encode()
    with workplace.serving():
        exports = [
            workplace.request("GET", "/v1/usage/export", key=made["key"]),
            workplace.request("POST", "/usage/export", body=form, headers=kind),
        ]
        exact = workplace.request("GET", "/v1/usage/export?format=jsonl", key=made["key"])
    for export in exports:
        (row,) = csv.DictReader(io.StringIO(export.body.decode()))
        assert (row["model"], row["status"], row["output_tokens"]) == ("'=2+2", "200", "20")
    assert json.loads(exact.body)["model"] == "=2+2"


def test_an_unknown_key_and_a_bad_time_are_named(workplace: Workplace) -> None:
    assert "no key" in workplace.run("usage", "nobody").complaint
    assert "yesterday" in workplace.run("usage", "--since", "yesterday").complaint


@pytest.mark.parametrize("arguments", [["\udcff"], ["--since", "\udcff"]])
def test_an_argument_that_is_not_utf_8_is_one_sentence(
    workplace: Workplace, arguments: list[str]
) -> None:
    assert "UTF-8" in workplace.run("usage", *arguments).complaint


@pytest.mark.parametrize("options", [["--by", "week"], ["--format", "xml"]])
def test_wrong_usage_ends_with_2(workplace: Workplace, options: list[str]) -> None:
    assert workplace.run("usage", *options).status == 2


def test_where_blocks_can_not_be_written_bars_are_ascii(used: Workplace) -> None:
    outcome = used.run("usage", charset="ascii")
    assert outcome.status == 0
    assert outcome.out.splitlines()[3].endswith("#" * 24)
