"""The form for a key: from what is typed to what is changed, and back."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.administration.keys import MAX_ENTRIES, KeyChanges
from opuslive.keys import Key
from opuslive.web.admin.key_form import Typed, explain_limits, form_fields, lines, sentence
from tests.support.clock import NOW

KEY = Key(
    "id",
    "alice",
    "sk-id",
    0,
    b"hash",
    expires_at=NOW - 1,
    models=("claude-*", "other"),
    limits=("2M tokens/5h", "8 concurrent"),
    group="friends",
)


def test_what_is_left_as_it_is_changes_nothing() -> None:
    """Not even an expiry that has passed, of which the form shows no milliseconds."""
    shown = asdict(Typed.of_key(KEY))
    assert Typed.of_key(KEY).changes(shown, NOW) == (KeyChanges(), {})
    # Browsers end lines in their own way.
    sent = replace(Typed.of_key(KEY), limits="2M tokens/5h\r\n8 concurrent\r\n")
    assert sent.changes(shown, NOW) == (KeyChanges(), {})


@pytest.mark.parametrize(
    ("field", "typed", "changes"),
    [
        ("name", "bob", KeyChanges(name="bob")),
        ("limits", "", KeyChanges(limits=())),
        ("models", "claude-*", KeyChanges(models=("claude-*",))),
        ("expires", "", KeyChanges(set_expiry=True)),
        ("expires", "1d", KeyChanges(set_expiry=True, expires_at=NOW + 86_400_000)),
        ("group", "", KeyChanges(set_group=True)),
        ("group", "others", KeyChanges(set_group=True, group="others")),
    ],
)
def test_only_what_was_changed_is_set(field: str, typed: str, changes: KeyChanges) -> None:
    before = Typed.of_key(KEY)
    after = replace(before, **{field: typed})
    assert after.changes(asdict(before), NOW) == (changes, {})


def test_an_empty_form_takes_everything_away_but_the_name() -> None:
    changes, errors = Typed(name="alice").changes({}, NOW)
    assert errors == {}
    assert (changes.limits, changes.models) == ((), ())
    assert (changes.set_expiry, changes.expires_at) == (True, None)
    assert (changes.set_group, changes.group) == (True, None)


def test_what_is_typed_is_read() -> None:
    typed = Typed(" carol ", "\n8 concurrent\r\n", "a-*\n\n b \na-*", " 1d ", " friends ")
    changes, errors = typed.changes({}, NOW)
    assert errors == {}
    assert (changes.name, changes.limits) == ("carol", ("8 concurrent",))
    assert (changes.models, changes.group) == (("a-*", "b"), "friends")
    assert changes.expires_at == NOW + 86_400_000


def test_every_error_is_told_at_once() -> None:
    _, errors = Typed("", "x", "a b", "soon", "a\tb").changes({}, NOW)
    assert errors.keys() == {"name", "limits", "models", "expires", "group"}


def test_limits_are_explained_up_to_as_many_as_a_key_may_have() -> None:
    many = "\n".join(f"5 requests/{seconds}s" for seconds in range(1, 999))
    explained = explain_limits(many)
    assert len(explained) == MAX_ENTRIES + 1
    assert [line.error is None for line in explained] == [True] * MAX_ENTRIES + [False]


def test_a_twin_is_an_error_where_it_stands() -> None:
    explained = explain_limits("5 requests/1m\n\n8 concurrent\n6 requests/60s")
    assert [(line.number, line.error is None) for line in explained] == [
        (1, True),
        (3, True),
        (4, False),
    ]


@given(st.text(max_size=200))
def test_any_text_is_explained(text: str) -> None:
    for line in explain_limits(text):
        assert (line.meaning is None) != (line.error is None)
    assert all(line == line.strip() != "" for line in lines(text))


@pytest.mark.parametrize(
    ("message", "expected"),
    [("no such thing", "No such thing."), ("It is bad.", "It is bad."), ("did you?", "Did you?")],
)
def test_messages_become_sentences(message: str, expected: str) -> None:
    assert sentence(message) == expected


def test_the_form_shows_every_field_that_can_be_typed() -> None:
    assert [field.name for field in form_fields(())] == [field.name for field in fields(Typed)]


def test_the_name_of_a_group_is_text_in_the_hint() -> None:
    hint = form_fields(["a <b>"])[-1].hint
    assert "It has: a &lt;b&gt;. Empty" in hint
