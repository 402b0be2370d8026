"""Questions to the administrator: asked on a terminal, answered by their defaults elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from opuslive.errors import UsageError

T = TypeVar("T")


class Questions:
    """Asks on standard error, so that standard output has the result alone."""

    def __init__(self, *, asking: bool) -> None:
        self.asking = asking

    @classmethod
    def on_terminal(cls, *, yes: bool) -> Questions:
        """Asks if there is a terminal to ask on, unless ``yes`` takes every default."""
        terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
        return cls(asking=terminal and not yes)

    def ask(
        self,
        question: str,
        parse: Callable[[str], T],
        *,
        given: str | None,
        default: str | None,
        flag: str,
    ) -> T:
        """What ``parse`` makes of an answer. An answer that it refuses is asked for again.

        ``given`` is what the ``flag`` says, which leaves nothing to ask. Raises UsageError if
        ``parse`` refuses that, and if there is nobody to ask and no default.
        """
        if given is not None:
            return parse(given)
        if not self.asking:
            if default is None:
                raise UsageError(f"{question} has no default here; say it with {flag}.")
            return parse(default)
        answer: T = click.prompt(
            question,
            default=default,
            show_default=bool(default),
            value_proc=_polite(parse),
            err=True,
        )
        return answer

    def secret(self, question: str, *, optional: bool) -> str:
        """An answer that is not shown, empty only if it is ``optional``."""
        return _hidden(question, optional=optional)

    def new_secret(
        self, question: str, check: Callable[[str], object], *, optional: bool = False
    ) -> str:
        """The same for what is chosen now: asked for until ``check`` raises no UsageError, and only
        then once more, until both are the same. An empty one that may be is not checked."""
        while True:
            answer = _hidden(question, optional=optional)
            if not answer:
                return answer
            try:
                check(answer)
            except UsageError as error:
                click.echo(error.message, err=True)
                continue
            if _hidden("The same again", optional=True) == answer:
                return answer
            click.echo("These two differ.", err=True)


def _hidden(question: str, *, optional: bool) -> str:
    answer: str = click.prompt(
        question,
        default="" if optional else None,
        show_default=False,
        hide_input=True,
        err=True,
    )
    return answer


def _polite(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The same, whose refusal click shows before it asks again."""

    def checked(answer: str) -> T:
        try:
            return parse(answer.strip())
        except UsageError as refusal:
            raise click.UsageError(refusal.message) from None

    return checked
