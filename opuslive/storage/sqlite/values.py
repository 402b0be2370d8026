"""What values the database holds; a value beyond would fail the transaction it is in."""

from __future__ import annotations

#: No request uses a million million tokens, and no number this size makes a sum overflow
#: SQLite's 64 bits before eight million of them.
LARGEST_NUMBER = 2**40
#: In ms since the epoch, the year 10889: beyond any clock, within any arithmetic.
LATEST_TIME = 2**48


def is_text(text: str) -> bool:
    """Whether it is whole Unicode text, with no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bounded_number(number: int) -> int:
    """The nearest number that a count may be."""
    return max(0, min(number, LARGEST_NUMBER))


def bounded_time(time: int) -> int:
    """The nearest time that there may be, in ms since the epoch."""
    return max(0, min(time, LATEST_TIME))
