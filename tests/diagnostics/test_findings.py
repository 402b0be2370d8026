"""Findings: what is an error of the whole, and how an error's sentence comes apart."""

from __future__ import annotations

from opuslive.diagnostics.findings import document, error, from_error, listed_names, ok, warning
from opuslive.errors import UsageError


def test_only_an_error_is_not_ok() -> None:
    assert document([ok("a", "b"), warning("a", "b", "c")])["ok"] is True
    assert document([ok("a", "b"), error("a", "b", "c")])["ok"] is False


def test_a_sentence_is_what_is_wrong_and_then_the_remedy() -> None:
    found = from_error("x", UsageError("It; is wrong; mend it."))
    assert (found.text, found.remedy) == ("It; is wrong", "mend it")
    assert from_error("x", UsageError("It is wrong.")).text == "It is wrong"


def test_of_many_names_a_few_are_told() -> None:
    assert listed_names("abc") == "a, b, c"
    assert listed_names("abcdefg") == "a, b, c, d, e and 2 more"
