"""How a part of a whole, and a number beside an earlier one, are written."""

from __future__ import annotations

#: From this factor on a growth is told as a factor: "1,900 % more" says little.
_MANY_TIMES = 10


def share(part: int, whole: int) -> str:
    """``97.3 %``, rounded down: ``100 %`` is all of it, ``0 %`` nothing, and what is less than a
    thousandth is ``< 0.1 %``. A dash where there is no whole."""
    if whole <= 0:
        return "\N{EN DASH}"
    if part in (0, whole):
        return "100 %" if part else "0 %"
    thousandths = part * 1000 // whole
    return f"{thousandths / 10:.1f} %" if thousandths else "< 0.1 %"


def change(number: int, before: int, span: str) -> str:
    """How a number stands to that of the span before: ``12 % more than the 30 days before``."""
    if number == before:
        return f"as in {span}" if number else f"none in {span} either"
    if not before:
        return f"none in {span}"
    if number >= _MANY_TIMES * before:
        return f"{number // before:,} times that of {span}"
    more, difference = ("more", number - before) if number > before else ("less", before - number)
    percent = difference * 100 // before
    return f"{f'{percent:,}' if percent else '< 1'} % {more} than {span}"
