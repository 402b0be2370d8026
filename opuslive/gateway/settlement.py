"""What one request leaves behind: its reservation settled, and one record.

An exchange notes in its ``Settlement`` what it learns as it goes on: the model, the admission,
that the request was sent, the meter. However the exchange ends, it ends with ``record`` or
``settle``. The first of these calls settles; further calls change nothing.

Once a request was sent it costs something, however it ends: the client leaves, the upstream breaks
off or sends what nobody can read, the process ends. What the answer told counts; the input that it
did not tell is what admission guessed, the output is the meter's estimate, and no less than what
was reserved if the answer does not show all of it. No estimate is learnt from. An error of the
provider costs what it tells, else nothing (``Dialect.error_meter``).

Who is refused may ask again in a loop, so refusals must fill no disk: one is recorded for each key
and second, be it the gateway's or the provider's (a 4xx). What cost tokens is always recorded.

A request that runs for more than a second has an *open* record, which has no status yet. Should
the process be killed, the next process completes the open record. An open record is renewed as
soon as the input is told (a stream tells it first), and every ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from opuslive.dialects import Meter, NoUsage, Operation
from opuslive.gateway.admission.admission import Admitted
from opuslive.gateway.holder import Holder
from opuslive.gateway.metrics import Metrics, Passage
from opuslive.storage import OpenRecord, Storage
from opuslive.usage import ModelTokens, TokenCounts, UsagePart, UsageRecord, request_row

#: One line a request, if the configuration asks for it: what the record says, and the request's
#: id, so that what a client was told can be looked up. No record has the id.
access_log = logging.getLogger("opuslive.access")

#: A request has an open record once it has run for so many ms.
KEEP_AFTER_MS = 1_000
#: An open record is renewed after so many ms, if not earlier.
KEEP_EVERY_MS = 10_000


class Recorder:
    """Makes the settlements of all requests.

    ``kept_name`` tells under which name a model is recorded, ``tier_of`` in which tier of the
    model's price a request is billed (model, tokens, time in ms since the epoch → tier).
    ``now_ms`` is the clock of windows and records, ``passed_ns`` the one that times a passage.
    """

    def __init__(
        self,
        storage: Storage,
        kept_name: Callable[[str | None], str | None],
        tier_of: Callable[[str | None, TokenCounts, int], int],
        now_ms: Callable[[], int],
        passed_ns: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self.storage = storage
        self.kept_name = kept_name
        self.tier_of = tier_of
        self.now_ms = now_ms
        self.passed_ns = passed_ns
        self.metrics = metrics
        #: Requests since the start that the gateway or a provider refused and that left no record,
        #: because there were too many.
        self.unrecorded_denials = 0

    def settlement(
        self, holder: Holder, request_id: str, operation: Operation, came: int
    ) -> Settlement:
        """The settlement of a request that came at that time of ``passed_ns``. ``request_id`` is
        the gateway's own."""
        return Settlement(self, holder, request_id, operation, came)


class Settlement:
    """The settlement of one request. An unmetered request leaves nothing behind."""

    __slots__ = (
        "_admitted",
        "_before",
        "_endpoint",
        "_holder",
        "_input_kept",
        "_keep_at",
        "_metered",
        "_opened",
        "_recorder",
        "_recording",
        "_request_id",
        "_settled",
        "_time",
        "failed",
        "meter",
        "model",
        "passage",
        "refused",
        "sent",
        "upstream",
    )

    def __init__(
        self,
        recorder: Recorder,
        holder: Holder,
        request_id: str,
        operation: Operation,
        came: int,
    ) -> None:
        #: The model that was asked for, its alias resolved.
        self.model: str | None = None
        self.meter: Meter = NoUsage()
        #: Whether bytes of the request went to an upstream. How many arrived there nobody can
        #: tell when the connection dies, so a part of the request counts as all of it.
        self.sent = False
        #: Whether the request failed for no fault of its client: then what nobody saw is free.
        self.failed = False
        #: Whether the provider refused the request: it answered with a 4xx.
        self.refused = False
        #: The name of the upstream that was asked last.
        self.upstream: str | None = None
        self.passage = Passage(recorder.passed_ns, came)
        #: The meters of answers that did not go to the client, for another upstream was asked.
        self._before: Sequence[Meter] = ()
        self._recorder = recorder
        self._holder = holder
        self._request_id = request_id
        self._endpoint = operation.path
        self._metered = operation.metered
        #: When the request was admitted; when it came, if it was not (ms since the epoch).
        self._time = recorder.now_ms()
        self._admitted: Admitted | None = None
        self._settled = False
        self._recording: asyncio.Future[None] | None = None
        self._opened: OpenRecord | None = None
        self._keep_at = self._time + KEEP_AFTER_MS
        #: Whether the open record has the input as it was told.
        self._input_kept = False

    def admitted(self, admitted: Admitted) -> None:
        self._admitted = admitted
        self._time = admitted.time

    def sending(self, upstream: str) -> None:
        """Bytes of the request go to the upstream of this name. If they went to another one before,
        that has answered, and what it told that it used counts, too."""
        if self.sent:
            self._before = (*self._before, self.meter)
            self.meter = NoUsage()
            self.refused = False
        self.sent = True
        self.upstream = upstream
        self.passage.sent()

    async def settle(self, status: int) -> None:
        """Record the request and wait until the record is on disk. Raises StorageUnavailable."""
        self.record(status)
        if self._recording is not None:
            # Shielded: the future belongs to the store, and others wait for it, too.
            await asyncio.shield(self._recording)

    def record(self, status: int) -> None:
        """Settle with what was used, and queue the one record of it.

        One refusal is recorded for each second, and none for a key that is being deleted.
        (Other records of such a key are made, and the store drops them: should deleting fail,
        what the requests used is not lost.)
        """
        if self._settled or not self._metered:
            return
        self._settled = True
        end = self._recorder.now_ms()
        tokens, parts = self._tokens(), self._parts()
        if self._admitted is not None:
            told = self.meter.input_told and self.meter.output_told
            whole = told and 200 <= status < 300
            end = self._admitted.settle(
                tokens if self.sent else None,
                end,
                whole=whole,
                model=self.meter.model,
                parts=parts,
            )
        used = tokens.total + sum([part.tokens.total for part in parts])
        ended = self._recorder.passed_ns()
        self._holder.used(ended // 1_000_000, used)
        metrics = self._recorder.metrics
        if self._cost_nothing(tokens, parts) and not self._denial_is_recorded():
            model = self._recorder.kept_name(self.meter.model or self.model)
            metrics.settled(self._holder, self._endpoint, model, status, sent=self.sent)
            return
        record = self._record_of(status, tokens, parts, end if self.sent else None)
        self._recording = self._recorder.storage.add_record(record, self._opened)
        metrics.settled(self._holder, self._endpoint, record.model, status, sent=self.sent)
        if self.upstream is not None:
            metrics.sent(self._holder, record, self.upstream, self.passage, ended)
        if not self._holder.leaving and access_log.isEnabledFor(logging.INFO):
            fields = {
                "request_id": self._request_id,
                "key": self._holder.key.id,
                **request_row(record),
            }
            access_log.info("request", extra={"fields": fields})

    def _cost_nothing(self, tokens: TokenCounts, parts: Sequence[ModelTokens]) -> bool:
        """Whether the request was refused, by the gateway or, at no cost, by the provider.

        One that has an open record is not: it has to be closed."""
        if self.refused:
            return tokens == TokenCounts() and not parts and self._opened is None
        return not self.sent

    def _denial_is_recorded(self) -> bool:
        """Whether a request that cost nothing leaves a record."""
        if self._holder.leaving:
            return False
        if self._holder.records_denial(self._time):
            return True
        self._recorder.unrecorded_denials += 1
        return False

    def keep_open(self, now: int) -> None:
        """Keep what is known by now. Called about twice a second; ``now`` is in ms since the epoch.

        What was used by now is held against the limits, and the record opened or renewed if due.
        """
        if not (self._metered and self.sent) or self._settled:
            return
        if self._admitted is not None:
            self._admitted.grow(self._tokens(), model=self.meter.model, parts=self._parts())
        storage = self._recorder.storage
        if not storage.healthy:
            return
        due = now >= self._keep_at
        if not due and (self._opened is None or self._input_kept):
            return
        told = self.meter.input_told
        if due or told:
            record = self._record_of(None, self._tokens(), self._parts(), now)
            self._keep_at = now + KEEP_EVERY_MS
            self._input_kept = told
            self._opened = storage.keep_open(record, self._opened)

    def _tokens(self) -> TokenCounts:
        """What the request used, as far as that is told; the rest is estimated."""
        if not self.sent:
            return TokenCounts()
        tokens, admitted = self.meter.counts(), self._admitted
        for meter in self._before:
            tokens += meter.counts()
        if admitted is None:
            return tokens
        if not self.meter.input_told:
            untold = admitted.untold_input(fetched=not self.failed)
            tokens = replace(tokens, input=tokens.input + untold)
        if self.meter.unseen_output and not self.failed:
            output = admitted.unseen_output(self._recorder.now_ms() - self._time)
            if output > tokens.output:
                tokens = replace(tokens, output=output)
        return tokens

    def shift(self, delta: int) -> None:
        """Move along with the date, by ``delta`` ms; an open record is renewed soon."""
        self._time += delta
        self._keep_at += delta
        if self._opened is not None:
            self._keep_at = self._time

    def _record_of(
        self,
        status: int | None,
        tokens: TokenCounts,
        parts: Sequence[ModelTokens],
        end: int | None,
    ) -> UsageRecord:
        model = self.meter.model or self.model
        return UsageRecord(
            key_id=self._holder.key.id,
            time=self._time,
            model=self._recorder.kept_name(model),
            status=status,
            latency_ms=None if end is None else max(0, end - self._time),
            tokens=tokens,
            tier=self._recorder.tier_of(model, tokens, self._time),
            parts=tuple([self._part(part) for part in parts]),
        )

    def _parts(self) -> Sequence[ModelTokens]:
        """What further models used. One that the answer does not name is taken for the model that
        was asked for: so the tokens have a price."""
        parts = self.meter.parts()
        for meter in self._before:
            parts = (*parts, *meter.parts())
        return [ModelTokens(part.model or self.model, part.tokens) for part in parts]

    def _part(self, part: ModelTokens) -> UsagePart:
        """What a model used, under the name that is kept of it."""
        tier = self._recorder.tier_of(part.model, part.tokens, self._time)
        return UsagePart(self._recorder.kept_name(part.model), part.tokens, tier)
