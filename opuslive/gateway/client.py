"""The client's side of an exchange, as the gateway needs it, and why an exchange is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from opuslive.dialects import Buffer, RawHeaders
from opuslive.gateway.holder import Cut, Holder
from opuslive.gateway.upstreams.wire import AnswerHead


class ExchangeCut(Exception):
    """The exchange was broken off; the client's connection is, or has to be, reset."""

    def __init__(self, why: Cut) -> None:
        super().__init__(why.name)
        self.why = why


class Watcher(Protocol):
    """An exchange, as whoever watches its client sees it."""

    def cut(self, why: Cut) -> None:
        """Break the exchange off, at whatever step it is."""

    def client_full(self) -> None:
        """The client takes no more for now."""

    def client_drained(self) -> None:
        """The client takes more again."""


class Client(Protocol):
    """The client's side of an exchange. Whoever implements it owns HTTP towards the client."""

    @property
    def credentials(self) -> Sequence[str]:
        """What may be this gateway's key, most likely first."""

    @property
    def headers(self) -> RawHeaders:
        """The request's headers, as they came."""

    @property
    def query(self) -> bytes:
        """The request's query string, as it came."""

    def authenticated(self, holder: Holder) -> None:
        """Take note of who was proven: every answer from now on tells how the key stands."""

    def watch(self, exchange: Watcher) -> None:
        """Tell the exchange from now on what becomes of the client. Raises ExchangeCut if it is
        gone already."""

    async def read_body(self) -> Buffer:
        """The whole request body.

        Raises OpusLiveError (body_too_large, body_timeout, invalid_request, overloaded), or
        ExchangeCut if the client goes first.
        """

    def body_sent(self) -> None:
        """The body is not needed any more: its memory may be given back."""

    async def start_answer(self, head: AnswerHead) -> tuple[Callable[[bytes], object], bool]:
        """Send the answer's head; return how to write its body, and whether in HTTP chunks.

        Raises ExchangeCut if the client is gone.
        """

    def reset(self) -> None:
        """Reset the connection, so that the answer can't be taken for a complete one."""
