"""The client's side of an exchange, as the gateway needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from opuslive.dialects import Buffer, RawHeaders
from opuslive.gateway.holder import Holder
from opuslive.gateway.upstreams.wire import AnswerHead


class Watcher(Protocol):
    """Hears what becomes of a client while its request is answered: an exchange."""

    def client_gone(self) -> None:
        """The client has left; it can be sent nothing more."""

    def client_full(self) -> None:
        """The client takes no more for now."""

    def client_drained(self) -> None:
        """The client takes more again."""


class Client(Protocol):
    """The client's side of an exchange. Whoever implements it owns HTTP towards the client."""

    @property
    def request_id(self) -> str:
        """The request's id, made by the gateway; the client reads it in the answer's head."""

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

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` from now on what becomes of the client.

        Raises ExchangeCut if the client is gone already.
        """

    @property
    def body_is_here(self) -> bool:
        """Whether the whole request body has arrived, so that refusing it saves nothing."""

    async def read_body(self) -> Buffer:
        """The whole request body.

        Raises OpusLiveError (body_too_large, body_timeout, invalid_request, overloaded), or
        ExchangeCut if the client goes first.
        """

    def body_sent(self) -> None:
        """The body is not needed any more: its memory may be given back."""

    def hold(self, size: int) -> None:
        """Count memory that so many bytes of the answer take up here until the exchange ends.

        Raises OpusLiveError if there is no more of it.
        """

    async def start_answer(
        self, head: AnswerHead, begun: bytes
    ) -> tuple[Callable[[bytes], object], bool]:
        """Send the answer's head and what has ``begun`` of its body.

        Returns how to write the rest, and whether in HTTP chunks.

        Raises ExchangeCut if the client is gone.
        """

    def reset(self) -> None:
        """Reset the connection, so that the answer can't be taken for a complete one."""
