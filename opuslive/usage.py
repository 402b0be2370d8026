"""What a request used, what is kept of it, and sums of that.

``UsageRecord`` has all the facts that the gateway ever holds about one request: whatever is not a
field of it is forgotten when the request ends.

What is made for every request is a ``msgspec.Struct``: it is made in a fraction of the time that a
frozen dataclass takes, and the garbage collector does not look at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, cast, get_args

import msgspec

from opuslive.times import iso_ms

#: How a request ended: ``served`` (2xx); ``client_error``, an answer that the request itself was to
#: blame for; ``upstream_error``, trouble of the provider or on the way to it, its 429 included;
#: ``cut``, because the client left; ``refused``, which is all that was not sent upstream.
Outcome = Literal["served", "client_error", "upstream_error", "cut", "refused"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
#: Outcome → what people call several requests that ended so.
OUTCOME_NAMES: Mapping[Outcome, str] = MappingProxyType(
    {
        "served": "served",
        "client_error": "client errors",
        "upstream_error": "upstream trouble",
        "cut": "cut by the client",
        "refused": "recorded refusals",
    }
)
#: Outcome → what one request is called that ended so.
ONE_OUTCOME: Mapping[Outcome, str] = MappingProxyType(
    {
        "served": "served",
        "client_error": "client error",
        "upstream_error": "upstream trouble",
        "cut": "cut by the client",
        "refused": "refused here",
    }
)


def numbered(outcome: Outcome, number: int) -> str:
    """So many requests that ended so, in words: ``1 client error``."""
    return f"{number:,} {(ONE_OUTCOME if number == 1 else OUTCOME_NAMES)[outcome]}"


class TokenCounts(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request, in disjoint kinds: the whole input is the sum of all but ``output``.

    ``cache_write_5m`` and ``cache_write_1h`` are input tokens written to the provider's
    prompt cache with that lifetime; ``cache_read`` those served from it.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write_5m + other.cache_write_5m,
            self.cache_write_1h + other.cache_write_1h,
        )

    @property
    def cache_write(self) -> int:
        return self.cache_write_5m + self.cache_write_1h

    @property
    def total(self) -> int:
        """Tokens of every kind."""
        return self.input + self.output + self.cache_read + self.cache_write


class ModelTokens(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one model; ``model`` is ``None`` where its name is not kept."""

    model: str | None
    tokens: TokenCounts


class UsagePart(ModelTokens, frozen=True, gc=False):
    """What one model used of a request. ``tier`` is that of the model's price which the size of
    the part puts it in; see ``UsageRecord``."""

    tier: int = 0


class UsageRecord(msgspec.Struct, frozen=True, gc=False):
    """One request of one key.

    ``time`` is the moment of admission, ms since the Unix epoch. ``latency_ms`` runs
    from there to the upstream's last byte and is ``None`` when nothing was sent
    upstream: such a record is a refusal and never counts in a limit. ``model`` is
    ``None`` unless the name is one that the gateway itself knows. ``tier`` is that of the
    model's price which the size of the request puts it in; it is kept in the sums of hours and
    days only, so that what they cost can be told. ``status`` is ``None`` while the request
    runs: what is known of it then is kept now and then, lest it be lost if the process is
    killed. ``model`` and ``tokens`` are those of the model that answered; ``parts`` is what other
    models used of the same request, such as one that a tool asked. It is one request all the same.
    """

    key_id: str
    time: int
    model: str | None
    status: int | None
    latency_ms: int | None
    tokens: TokenCounts = TokenCounts()
    tier: int = 0
    parts: tuple[UsagePart, ...] = ()

    @property
    def by_model(self) -> Sequence[UsagePart]:
        """What each model used: first the one that answered, then the others."""
        return (UsagePart(self.model, self.tokens, self.tier), *self.parts)

    @property
    def end_time(self) -> int:
        """When the tokens became known, ms since the epoch: they count from here."""
        return self.time + (self.latency_ms or 0)


def outcome_of(status: int, latency_ms: int | None) -> Outcome:
    """How the request of a record ended. What no provider should answer counts as its error."""
    if latency_ms is None:
        return "refused"
    if 200 <= status < 300:
        return "served"
    if status == 499:
        return "cut"
    if 400 <= status < 500 and status != 429:
        return "client_error"
    return "upstream_error"


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage added up. ``requests`` were sent upstream, ``refusals`` were not.

    ``client_errors``, ``upstream_errors`` and ``cut`` are those of the requests with that
    ``Outcome``; the others were served.
    """

    requests: int = 0
    refusals: int = 0
    tokens: TokenCounts = field(default_factory=TokenCounts)
    client_errors: int = 0
    upstream_errors: int = 0
    cut: int = 0

    @property
    def served(self) -> int:
        return self.requests - self.client_errors - self.upstream_errors - self.cut

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """Outcome → requests and refusals that had it."""
        return {
            "served": self.served,
            "client_error": self.client_errors,
            "upstream_error": self.upstream_errors,
            "cut": self.cut,
            "refused": self.refusals,
        }

    def as_dict(self) -> dict[str, int]:
        """The members under which the interfaces show a sum."""
        return {
            "requests": self.requests,
            "refusals": self.refusals,
            "served": self.served,
            "client_errors": self.client_errors,
            "upstream_errors": self.upstream_errors,
            "cut": self.cut,
            "input_tokens": self.tokens.input,
            "output_tokens": self.tokens.output,
            "cache_read_tokens": self.tokens.cache_read,
            "cache_write_tokens": self.tokens.cache_write,
        }


@dataclass(frozen=True, slots=True)
class ModelSum:
    """What was used in one bucket of one model, in one tier of its price.

    ``bucket`` is the start of an hour or a day in ms since the epoch, or the id of a key, or
    the name of a group (``None`` for none), or the model once more. ``model`` is ``None`` for
    requests whose model name is not kept. Requests and refusals are in the hour or day of their
    record's time, tokens in that of its end.

    In a database that a program older than outcomes had, those of one model and hour may all be in
    one tier: only their sum over the tiers is right.
    """

    bucket: int | str | None
    model: str | None
    tier: int
    sum: UsageSum


#: The columns of an export, in order.
EXPORT_COLUMNS = (
    "time",
    "model",
    "status",
    "latency_ms",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)


#: What makes a spreadsheet take a text for a formula (OWASP, "CSV Injection").
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_row(row: Mapping[str, object]) -> Mapping[str, object]:
    """The row for a CSV file, in which no text is a formula: an apostrophe goes before one.

    Numbers stay as they are.
    """
    return {
        column: f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
        for column, cell in row.items()
    }


def export_rows(record: UsageRecord) -> Sequence[Mapping[str, str | int | None]]:
    """Everything held about one request, in rows under the names of ``EXPORT_COLUMNS``.

    The first row is that of the model that answered. Each other model that was part of the request
    has a row of its own, with the time and the status of the request and without a latency: so
    tokens may be added up by model, and a row with a latency is a request that was sent on.
    """
    return [
        {
            "time": iso_ms(record.time),
            "model": part.model,
            "status": record.status,
            "latency_ms": None if number else record.latency_ms,
            "input_tokens": part.tokens.input,
            "output_tokens": part.tokens.output,
            "cache_read_tokens": part.tokens.cache_read,
            "cache_write_5m_tokens": part.tokens.cache_write_5m,
            "cache_write_1h_tokens": part.tokens.cache_write_1h,
        }
        for number, part in enumerate(record.by_model)
    ]


def request_row(record: UsageRecord) -> Mapping[str, str | int | None]:
    """One request in one row: the tokens of all its models together."""
    own, *others = export_rows(record)
    counts = EXPORT_COLUMNS[-5:]
    return {**own, **{name: sum(cast(int, row[name]) for row in (own, *others)) for name in counts}}
