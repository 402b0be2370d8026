"""The options of ``opuslive keys update`` that raise a limit for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

Command = Callable[..., Any]

_OPTIONS: Sequence[Callable[[Command], Command]] = (
    click.option(
        "--raise",
        "raised",
        metavar="LIMIT",
        help="Raise a limit for a while, such as '4M tokens/5h' where it is '2M tokens/5h'. That "
        "ends by itself: say when with --for or --until. What was used keeps counting.",
    ),
    click.option("--for", "span", metavar="SPAN", help="How long --raise holds, such as 1d."),
    click.option(
        "--until",
        metavar="WHEN",
        help="Until when --raise holds: a day (2026-12-31: its end, UTC) or a time.",
    ),
    click.option("--no-raise", is_flag=True, help="Take every raise back."),
)


def raise_options(command: Command) -> Command:
    """Adds the parameters of ``raise_member``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def raise_member(
    raised: str | None, span: str | None, until: str | None, no_raise: bool
) -> Mapping[str, object]:
    """The member ``raise`` of the API, or none. Raises click.UsageError."""
    if raised is None:
        if span is not None or until is not None:
            raise click.UsageError("--for and --until belong to --raise LIMIT.")
        return {"raise": None} if no_raise else {}
    if no_raise:
        raise click.UsageError("Give --raise or --no-raise, not both.")
    if (span is None) == (until is None):
        raise click.UsageError(
            "A raise ends by itself: say when with --for, such as --for 1d, or with --until."
        )
    return {"raise": {"limit": raised, **({"for": span} if until is None else {"until": until})}}


def limits_text(key: Mapping[str, Any]) -> str:
    """The limits of a key in one line, those that are raised with what holds for now."""
    raises = {each["from"]: each for each in key.get("raises", ())}
    return ", ".join(
        f"{limit} (raised to {raises[limit]['limit']} until {raises[limit]['until']})"
        if limit in raises
        else limit
        for limit in key["limits"]
    )


def limit_lines(key: Mapping[str, Any]) -> Sequence[str]:
    """The limits of a key as they hold now, for a column of a table."""
    raises = {each["from"]: each for each in key.get("raises", ())}
    return [
        f"{raises[limit]['limit']} until {raises[limit]['until'][:10]}"
        if limit in raises
        else limit
        for limit in key["limits"]
    ]
