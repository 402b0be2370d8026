"""``opuslive keys`` with several KEYs or a group: all are changed, or none; and raised limits."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.keys import a_key
from tests.support.workplace import SERVED, MakeWorkplace, Workplace

pytestmark = SERVED

GROUPS = {"limits.groups": {"friends": ["50 usd/month"], "a/b": ["8 concurrent"]}}
KEY = re.compile(r"sk-ant-ol-\w{8}-\w{40}")


def fill(work: Workplace) -> None:
    limits = ("2M tokens/5h",)
    work.fill([a_key(n, limits=limits, group="friends" if n < 3 else None) for n in (1, 2, 3)], [])


def names(answer: Any) -> list[str]:
    return [key["name"] for key in answer["items"]]


def test_keys_that_are_named_or_of_a_group_are_changed_together(either_way: Workplace) -> None:
    work = either_way
    for name in ("one", "two"):
        work.create_key(name, "--group", "friends")
    work.create_key("three")
    changed = work.json("keys", "update", "one", "three", "--expires", "2099-12-31")
    assert names(changed) == ["one", "three"]
    assert {key["expires_at"] for key in changed["items"]} == {"2100-01-01T00:00:00Z"}
    disabled = work.json("keys", "disable", "--group", "friends")
    assert [(key["name"], key["state"]) for key in disabled["items"]] == [
        ("one", "disabled"),
        ("two", "disabled"),
    ]
    moved = work.json("keys", "update", "--group", "friends", "--to-group", "a/b")
    assert {key["group"] for key in moved["items"]} == {"a/b"}
    assert names(work.json("keys", "enable", "--group", "a/b")) == ["one", "two"]
    # One that is named alone is an answer of its own; beside it, --group says where it goes.
    alone = work.json("keys", "update", "three", "--group", "friends")
    assert (alone["name"], alone["group"]) == ("three", "friends")
    rotated = work.json("keys", "rotate", "--group", "a/b", "--grace", "1h")
    assert names(rotated) == ["one", "two"]
    assert all(KEY.fullmatch(key["key"]) for key in rotated["items"])
    assert rotated["items"][0]["key"] != rotated["items"][1]["key"]


def test_what_can_not_be_changed_of_one_is_changed_of_none(workplace: Workplace) -> None:
    fill(workplace)
    complaint = workplace.run("keys", "disable", "name of 1", "nobody").complaint
    assert complaint.startswith("Nothing was changed, because of 'nobody': There is no key")
    workplace.json("keys", "update", "name of 2", "--limit", "9 concurrent")
    raised = ("--raise", "4M tokens/5h", "--for", "1d")
    complaint = workplace.run("keys", "update", "--group", "friends", *raised).complaint
    assert "because of the key 'name of 2': The key has no limit of that metric" in complaint
    assert "9 concurrent" in complaint
    assert {key["state"] for key in workplace.json("keys", "list")} == {"enabled"}
    assert all(key["raises"] == [] for key in workplace.json("keys", "list"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("update", "--no-limits"), "Name a KEY or several"),
        (("disable",), "Name a KEY or several"),
        (("rotate", "one", "two", "--group", "friends"), "not both"),
        (("update", "one", "--group", "x", "--to-group", "y"), "give one of them"),
        (("update", "--group", "x", "--to-group", "y", "--no-group"), "not both"),
        (("update", "--group", "friends"), "Say what to change"),
        (("update", "one", "--raise", "4M tokens/5h"), "say when with --for"),
        (("update", "one", "--raise", "4M tokens/5h", "--for", "1d", "--until", "2d"), "say when"),
        (("update", "one", "--for", "1d"), "belong to --raise"),
        (("update", "one", "--raise", "4M tokens/5h", "--no-raise"), "not both"),
    ],
)
def test_options_that_make_no_sense_together_are_wrong_usage(
    workplace: Workplace, arguments: tuple[str, ...], said: str
) -> None:
    outcome = workplace.run("keys", *arguments)
    assert outcome.status == 2
    assert said in " ".join(outcome.err.split())


def test_an_answer_about_several_keys_is_one_table(make_workplace: MakeWorkplace) -> None:
    work = make_workplace(**GROUPS)
    fill(work)
    outcome = work.run("keys", "update", "name of 1", "name of 3", "--to-group", "freinds")
    lines = outcome.out.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["name", "name of 1", "name of 3"]
    assert lines[-1] == "2 keys were changed together."
    # Once, though it is about both.
    assert outcome.err.count("Did you mean 'friends'?") == 1
    rotated = work.run("keys", "rotate", "name of 1", "name of 3")
    assert len(KEY.findall(rotated.out)) == 2
    assert "only time the keys are shown" in rotated.out
    assert "The old secrets are void." in rotated.out


def test_a_raise_is_shown_until_it_is_taken_back(either_way: Workplace) -> None:
    work = either_way
    work.create_key("alice", "--limit", "2M tokens/5h", "--limit", "9 concurrent")
    until = ("--until", "2099-12-31")
    raised = work.json("keys", "update", "alice", "--raise", "4000k tokens/5h", *until)
    end = "2100-01-01T00:00:00Z"
    assert raised["raises"] == [{"limit": "4M tokens/5h", "from": "2M tokens/5h", "until": end}]
    assert raised["limits"] == ["2M tokens/5h", "9 concurrent"]
    shown = work.run("keys", "show", "alice").out
    assert f"2M tokens/5h (raised to 4M tokens/5h until {end}), 9 concurrent" in shown
    assert "4M tokens/5h until 2100-01-01" in work.run("keys", "list").out
    assert work.json("keys", "update", "alice", "--no-raise")["raises"] == []
    assert "raised" not in work.run("keys", "show", "alice").out


def test_what_expires_soon_is_marked(workplace: Workplace) -> None:
    for name, span in (("goes", "6d"), ("stays", "9d")):
        workplace.create_key(name, "--expires", span)
    rows = {line.split()[0]: line for line in workplace.run("keys", "list").out.splitlines()}
    assert ("(soon)" in rows["goes"], "(soon)" in rows["stays"]) == (True, False)
    shown = workplace.run("keys", "show", "goes").out
    assert re.search(r"expires .* \(soon\)", shown)


def test_groups_are_listed_and_shown(make_workplace: MakeWorkplace) -> None:
    work = make_workplace(**GROUPS)
    fill(work)
    work.create_key("label", "--group", "freinds", "--expires", "2d")
    listed = work.run("groups", "list")
    rows = [re.split(r"  +", line.strip()) for line in listed.out.splitlines()[1:]]
    assert rows == [
        ["a/b", "0", "0", "0 %", "8 concurrent"],
        ["freinds", "1", "1", "no limits"],
        ["friends", "2", "0", "0 %", "50 usd/month"],
    ]
    assert "Note: [limits.groups] has no group 'freinds'" in listed.err
    shown = work.run("groups", "show", "friends").out
    assert "name of 1" in shown
    assert "50 usd/month" in shown
    assert work.json("groups", "show", "a/b")["members"] == []
    assert [group["name"] for group in work.json("groups", "list")] == ["a/b", "freinds", "friends"]
    members = work.json("groups", "show", "friends")["members"]
    assert [key["name"] for key in members] == ["name of 1", "name of 2"]
    assert "did you mean 'friends'?" in work.run("groups", "show", "frinds").complaint


@pytest.mark.parametrize("name", ["..", ".", "a/b % \N{SNOWMAN}", "{x}", "50%2F"])
def test_a_group_of_any_name_is_shown(workplace: Workplace, name: str) -> None:
    workplace.fill([a_key(1, group=name)], [])
    shown = workplace.json("groups", "show", name)
    assert (shown["name"], [key["id"] for key in shown["members"]]) == (name, [a_key(1).id])


def test_without_any_group_the_list_says_how_to_make_one(workplace: Workplace) -> None:
    assert "[limits.groups]" in workplace.run("groups", "list").out
