"""What clients and the administrator of a gateway saw, and what must be stored because of it.

Pure: it is told what was asked and what came back, and later what was found, and says what is
wrong. Each request has a number of its own, which the scripted provider reports as cached
tokens, so that every record can be traced to the request it is of.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

#: Added to a request's number: a number of six bytes, as no other count is.
MARK = 0x9D << 32
#: How such a number begins in the file.
ROW = b"\x00\x9d"


class Ending(enum.Enum):
    """How the provider is told to answer."""

    WHOLE = "whole"
    FAULT = "fault"  # an error, complete
    BROKEN = "broken"  # the connection breaks after the answer has begun
    ENDLESS = "endless"  # begun, and never ended


class Life(enum.Enum):
    """What is known of a key: a change that nobody confirmed may have happened or not."""

    ASKED = "asked"
    CONFIRMED = "confirmed"
    DELETING = "deleting"
    LEAVING = "leaving"  # it is gone, and its traces will be once a server has started
    DELETED = "deleted"


@dataclass(slots=True)
class HeldKey:
    """A key as its administrator knows it."""

    name: str
    id: str | None = None
    credential: str = ""
    life: Life = Life.ASKED
    #: Groups that it may have: the last that was confirmed, and what was asked for since.
    groups: set[str | None] = field(default_factory=lambda: {None})


@dataclass(slots=True)
class Asked:
    """One request, and what its client saw of the answer."""

    number: int
    key: str
    ending: Ending
    complete: int | None = None  # the status of an answer that was seen to its end
    began: float | None = None  # when its first words on usage were seen, s on some clock
    asked: float = 0.0  # when it was asked
    left: bool = False  # whether its client has left
    lasting: bool = False  # whether it ran for so long that a crash may not lose it
    life: int = 0  # of the server, by number

    @property
    def tokens(self) -> Mapping[str, int]:
        """What the provider reports as used, under its own names."""
        return {
            "input_tokens": 3 + self.number % 50,
            "output_tokens": 7 + self.number % 11,
            "cache_read_input_tokens": MARK + self.number,
            "cache_creation_input_tokens": self.number % 5,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it was found. ``status`` is None for one that is still open."""

    key: str
    time: int
    model: str | None
    status: int | None
    latency_ms: int | None
    counts: tuple[int, ...]  # input, output, cache: read, written 5 min, 1 h

    @property
    def number(self) -> int | None:
        """Of the request it is of, if that was seen on the wire."""
        return self.counts[2] - MARK if self.counts[2] else None


#: Of a provider that is overloaded.
FAULT_STATUS = 529
#: Seconds after which a request that runs has an open record: one, and half of one until the
#: gateway looks at it.
LASTING = 1.6


class Ledger:
    """All keys and requests since the database was made."""

    def __init__(self) -> None:
        self.keys: list[HeldKey] = []
        self._asked: dict[int, Asked] = {}
        self._open: set[int] = set()  # requests that were found with an open record
        self._life = 1
        #: Answers that no one should have got.
        self.surprises: list[str] = []

    def ask(self, key: HeldKey, ending: Ending, now: float = 0.0) -> Asked:
        assert key.id is not None
        asked = Asked(len(self._asked) + 1, key.id, ending, asked=now, life=self._life)
        self._asked[asked.number] = asked
        return asked

    def next_number(self) -> int:
        """Of the request that will be asked next."""
        return len(self._asked) + 1

    def asked(self, number: int) -> Asked:
        return self._asked[number]

    @property
    def complete(self) -> int:
        """How many answers were seen to their end."""
        return sum(asked.complete is not None for asked in self._asked.values())

    def live(self) -> list[HeldKey]:
        return [key for key in self.keys if key.life is Life.CONFIRMED]

    def traces(self) -> Iterator[tuple[str, bytes]]:
        """What no file may hold any more: the bytes of keys whose deletion was confirmed."""
        gone = {key.id: key for key in self.keys if key.life is Life.DELETED}
        for key_id, key in gone.items():
            assert key_id is not None
            yield f"the id of {key.name}", key_id.encode()
            yield f"the name of {key.name}", key.name.encode() + b"."

    def erased_rows(self) -> Iterator[tuple[str, bytes]]:
        """Bytes of records that no file may hold any more, each beginning two before ``ROW``.

        They are counts as they stand side by side: one alone may turn up as a sum of others.
        """
        gone = {key.id for key in self.keys if key.life is Life.DELETED}
        for asked in self._asked.values():
            if asked.key in gone and asked.complete == 200:
                used, cached = asked.tokens, MARK + asked.number
                counts = bytes([used["input_tokens"], used["output_tokens"]])
                yield f"record {asked.number}", counts + cached.to_bytes(6, "big")

    def settle_keys(self, found: Mapping[str, tuple[str, str | None]]) -> list[str]:
        """Compare with the ids that are stored, their names and groups: what is wrong.

        What nobody confirmed is settled by what is found.
        """
        problems = []
        names = {name: key_id for key_id, (name, _) in found.items()}
        for key in self.keys:
            stored = names.pop(key.name + ".", None)
            if key.life is Life.CONFIRMED and stored is None:
                problems.append(f"{key.name} is gone")
            if key.life in (Life.LEAVING, Life.DELETED) and stored is not None:
                problems.append(f"{key.name} was deleted and is there")
            if stored is not None and found[stored][1] not in key.groups:
                problems.append(f"{key.name} has lost a change")
            if key.life is Life.DELETING:
                key.life = Life.LEAVING if stored is None else Life.CONFIRMED
            if stored is not None:
                key.groups = {found[stored][1]}
        # The credential of one that nobody confirmed was never told: no one can use it.
        self.keys = [key for key in self.keys if key.life is not Life.ASKED]
        return problems

    def started(self) -> None:
        """A server has started: what a crash cut short is carried through."""
        for key in self.keys:
            if key.life is Life.LEAVING:
                key.life = Life.DELETED
        self._life += 1

    def died(self) -> int:
        """The server is dead: how many requests ran for so long that they must have a record.

        Of what was written before them, whatever is complete tells that it is on disk.
        """
        seen = max((a.asked for a in self._asked.values() if a.complete == 200), default=0.0)
        lasting = [
            asked
            for asked in self._asked.values()
            if asked.life == self._life
            and asked.ending is Ending.ENDLESS
            and not asked.left
            and asked.began is not None
            and asked.began + LASTING <= seen
        ]
        for asked in lasting:
            asked.lasting = True
        return len(lasting)

    def compare(self, rows: Iterable[Row]) -> list[str]:
        """What is wrong with the records of keys that are not being erased."""
        problems = list(self.surprises)
        numbered: defaultdict[int, list[Row]] = defaultdict(list)
        faults: Counter[str] = Counter()
        for row in rows:
            if row.number is not None:
                numbered[row.number].append(row)
            elif row.status == FAULT_STATUS:
                faults[row.key] += 1
        lives = {key.id: key.life for key in self.keys}
        seen_faults: Counter[str] = Counter()
        sent_faults: Counter[str] = Counter()
        for asked in self._asked.values():
            found = numbered.pop(asked.number, [])
            if lives[asked.key] in (Life.LEAVING, Life.DELETED):
                if found:
                    problems.append(f"request {asked.number} of a deleted key has a record")
            elif asked.ending is Ending.FAULT:
                sent_faults[asked.key] += 1
                seen_faults[asked.key] += asked.complete == FAULT_STATUS
            elif lives[asked.key] is Life.CONFIRMED:
                problems += _compared(asked, found) + self._closed(asked, found)
        if numbered:
            problems.append(f"records of no request: {sorted(numbered)}")
        for key, sent in sent_faults.items():
            if not seen_faults[key] <= faults[key] <= sent:
                problems.append(
                    f"{faults[key]} records of {seen_faults[key]} errors seen and {sent} sent"
                )
        return problems

    def _closed(self, asked: Asked, found: list[Row]) -> list[str]:
        """What is wrong with an open record, or one that was found open before."""
        what = f"request {asked.number}"
        statuses = [row.status for row in found]
        problems = []
        if None in statuses:
            self._open.add(asked.number)
            if asked.life < self._life:
                problems.append(f"{what} is open, and a server has started since")
        elif asked.number in self._open and statuses != [503]:
            problems.append(f"{what} was open and is closed with {statuses}")
        if asked.lasting and asked.life < self._life and statuses != [503]:
            problems.append(f"{what} was running for long and is recorded with {statuses}")
        return problems


def _compared(asked: Asked, found: list[Row]) -> list[str]:
    what = f"request {asked.number} ({asked.ending.value})"
    if len(found) > 1:
        return [f"{what} has {len(found)} records"]
    if not found:
        if asked.complete == 200:
            return [f"{what} was complete and has no record"]
        return [f"{what} ran for long and has no record"] if asked.lasting else []
    (row,) = found
    problems = [] if row.key == asked.key else [f"{what} is recorded with another key"]
    tokens = asked.tokens
    inputs = (row.counts[0], *row.counts[2:])
    if inputs != (
        tokens["input_tokens"],
        tokens["cache_read_input_tokens"],
        tokens["cache_creation_input_tokens"],
        0,
    ):
        problems.append(f"{what} is recorded with {row.counts}")
    if asked.complete == 200 and (row.status, row.counts[1]) != (200, tokens["output_tokens"]):
        problems.append(f"{what} was complete and is recorded with {row.status}, {row.counts}")
    if row.status not in (None, 200, 499, 502, 503):
        problems.append(f"{what} is recorded with {row.status}")
    return problems
