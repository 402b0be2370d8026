"""The facts of a key that the pages list."""

from __future__ import annotations

from dataclasses import fields

from opuslive.keys import Invitation, Key, Raise
from opuslive.web.shapes import KeyFact, key_facts

BARE = Key("idididid", "alice", "sk-id", 0, b"hash")
FULL = Key(
    "idididid",
    "alice",
    "sk-id",
    0,
    b"hash",
    enabled=False,
    expires_at=1,
    models=("claude-*",),
    limits=("8 concurrent",),
    group="friends",
    previous_hash=b"old",
    previous_expires_at=2,
    raises=(Raise("9 concurrent", 3),),
    invitation=Invitation(b"code", 4),
)


def test_a_fact_says_what_a_key_without_a_setting_has_instead() -> None:
    shown = {fact.label: fact for fact in key_facts(BARE)}
    assert shown["Group"] == KeyFact("Group", "none")
    assert shown["Expires"] == KeyFact("Expires", "never", is_end=True)
    assert shown["Models"] == KeyFact("Models", "all")
    assert shown["Limits"] == KeyFact("Limits", "none")
    assert shown["Old secret"] == KeyFact("Old secret", "none")


def test_every_setting_of_a_key_is_a_fact_of_its_own() -> None:
    """Each field of ``Key`` has one; the time of the old secret is with the old secret."""
    facts = key_facts(FULL)
    assert len(facts) == len(fields(Key)) - 1
    shown = {fact.label: fact for fact in facts}
    assert shown["Group"] == KeyFact("Group", "friends")
    assert shown["Enabled"] == KeyFact("Enabled", "no")
    assert shown["Expires"] == KeyFact("Expires", time=1, is_end=True)
    assert shown["Models"] == KeyFact("Models", codes=("claude-*",))
    assert shown["Limits"] == KeyFact("Limits", codes=("8 concurrent",))
    assert shown["Raised until"] == KeyFact("Raised until", codes=("9 concurrent",), time=3)
    assert (shown["Old secret"].time, shown["Invitation"].time) == (2, 4)
