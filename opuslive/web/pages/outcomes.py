"""How requests ended, by class: in words, and as parts of a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from opuslive.usage import OUTCOME_NAMES, Outcome, UsageSum
from opuslive.web.pages.charts import GAUGE
from opuslive.web.pages.proportions import share

_MEANINGS: Mapping[Outcome, str] = MappingProxyType(
    {
        "served": "answered, with a status of 200 to 299",
        "client_error": "an error that the request itself was to blame for: 4xx but 429",
        "upstream_error": "the provider failed, could not be reached or limited the rate: 429, 5xx",
        "cut": "the client left before the end: 499",
        "refused": "refused here, and not sent on; at most one a second of each key is recorded",
    }
)


@dataclass(frozen=True, slots=True)
class OutcomePart:
    """The requests that ended in one way. ``index`` says which part of a column they are, ``x`` and
    ``width`` where in a bar."""

    index: int
    name: str
    meaning: str
    number: int
    share: str
    x: float
    width: float


def outcome_parts(used: UsageSum) -> Sequence[OutcomePart]:
    """A part for each outcome; together they are all requests, sent on or not."""
    whole = used.requests + used.refusals
    parts, before = [], 0
    for index, (outcome, number) in enumerate(used.outcomes.items()):
        x, end = (round(at * GAUGE / max(1, whole), 2) for at in (before, before + number))
        parts.append(
            OutcomePart(
                index=index,
                name=OUTCOME_NAMES[outcome],
                meaning=_MEANINGS[outcome],
                number=number,
                share=share(number, whole),
                x=x,
                width=round(end - x, 2),
            )
        )
        before += number
    return parts
