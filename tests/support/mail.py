"""A mail server on a real socket: it takes mail, refuses it, or does not answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "gateway@example.com", "mail canary: ü"


class MailServer:
    """Takes mail. ``answers`` are a command → what it is answered with in place of the usual."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        #: What each client called itself, and whether its connection was encrypted then.
        self.greetings: list[tuple[str, bool]] = []
        self.answers: dict[str, str] = {}
        self.silent = False
        self.attempts = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        starttls: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Listen. ``tls``: offer STARTTLS, or unless ``starttls`` speak TLS from the beginning."""
        loop = asyncio.get_running_loop()
        upgraded = tls if starttls else None

        def protocol() -> SMTP:
            self.attempts += 1
            return SMTP(
                self,
                hostname="mail.example.com",
                loop=loop,
                tls_context=upgraded,
                require_starttls=upgraded is not None,
                authenticator=self._authenticate,
                auth_require_tls=upgraded is not None,
                enable_SMTPUTF8=True,
                **(options or {}),
            )

        self._server = await loop.create_server(
            protocol, "127.0.0.1", 0, ssl=None if starttls else tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        right = LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=isinstance(data, LoginPassword) and data == right, handled=False)

    # What the protocol calls.

    async def handle_EHLO(  # noqa: N802  # the protocol looks for this name
        self, server: SMTP, session: Session, envelope: Envelope, host: str, responses: list[str]
    ) -> list[str]:
        session.host_name = host
        self.greetings.append((host, session.ssl is not None))
        if self.silent:
            await asyncio.Event().wait()
        return responses

    async def handle_MAIL(  # noqa: N802  # the protocol looks for this name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if "MAIL" in self.answers:
            return self.answers["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  # the protocol looks for this name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if f"RCPT {address}" in self.answers:
            return self.answers[f"RCPT {address}"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802  # the protocol looks for this name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if "DATA" in self.answers:
            return self.answers["DATA"]
        content = envelope.content
        assert isinstance(content, bytes)
        mail = message_from_bytes(content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.envelopes.append(envelope)
        return "250 2.0.0 queued"
