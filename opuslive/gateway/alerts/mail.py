"""Mail: each alert as a message to the administrator, through an SMTP server.

The connection is made for each message, and is encrypted with a certificate that is verified,
unless the server is on this machine. Headers hold nothing that anybody chose but the addresses of
the configuration; names of groups and upstreams stand in the body alone, encoded. What the server
calls temporary (4yz) is tried again, what it refuses (5yz) is not (RFC 5321, section 4.2.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from types import MappingProxyType
from typing import Final

import aiosmtplib

from opuslive.alerting import Encryption
from opuslive.errors import OpusLiveError
from opuslive.gateway.alerts.alerts import Message
from opuslive.gateway.alerts.delivery import Answer

#: Seconds that an attempt may take in all.
TIMEOUT_SECONDS: Final = 30.0
#: Characters of an answer that are shown to the administrator who asks.
_MAX_SAID: Final = 200
_SUBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "limit": "a limit is used to {level} %",
        "credential": "a provider refuses the credential",
        "expiry": "a key expires soon",
        "test": "a test",
    }
)


@dataclass(frozen=True, slots=True)
class Mail:
    """Sends through the server at ``host`` and ``port``.

    ``login`` gives the user's name and the password, None without; it reads a file, and may raise
    OpusLiveError. ``tls`` has the authorities that are trusted; it is made when it is needed.
    """

    host: str
    port: int
    encryption: Encryption
    sender: str
    recipients: Sequence[str]
    login: Callable[[], tuple[str, str] | None] = field(repr=False)
    tls: Callable[[], ssl.SSLContext] = field(repr=False)
    timeout_seconds: float = TIMEOUT_SECONDS

    @property
    def label(self) -> str:
        return "the mail server of alerts"

    async def deliver(self, message: Message) -> Answer:
        return await self._attempt(self._written(message))

    async def probe(self) -> Answer:
        """Connect and sign in, and send nothing."""
        return await self._attempt(None)

    async def _attempt(self, mail: EmailMessage | None) -> Answer:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await self._converse(mail)
        except (TimeoutError, aiosmtplib.SMTPTimeoutError):
            return Answer("it did not answer in time", 0.0)
        except OpusLiveError as error:
            return Answer("its password can't be read", None, error.message)
        except aiosmtplib.SMTPRecipientsRefused as refused:
            first = refused.recipients[0]
            return _refused(first.code, first.message)
        except aiosmtplib.SMTPResponseException as refused:
            return _refused(refused.code, refused.message)
        # Whatever it is, it must not end the delivery: the next message may have better luck.
        except Exception as error:
            if isinstance(error, aiosmtplib.SMTPException) and not isinstance(error, OSError):
                return Answer("it offers no encryption, or no way to sign in that is known here")
            cause = error.__cause__ or error
            return Answer(f"it can't be reached ({type(cause).__name__})", 0.0)

    async def _converse(self, mail: EmailMessage | None) -> Answer:
        login = await asyncio.to_thread(self.login)
        encrypted = self.encryption != "none"
        client = aiosmtplib.SMTP(
            hostname=self.host,
            port=self.port,
            use_tls=self.encryption == "tls",
            start_tls=self.encryption == "starttls",
            tls_context=await asyncio.to_thread(self.tls) if encrypted else None,
            # The name of this machine is nobody's business.
            local_hostname=self._domain,
            timeout=self.timeout_seconds,
        )
        try:
            await client.connect()
            if login is not None:
                await client.login(*login)
            if mail is None:
                said = "it takes the connection" + ("" if login is None else " and the password")
                answer = Answer(said=said)
            else:
                refused, response = await client.send_message(mail)
                answer = Answer(said=_printable(response))
                if refused:
                    answer = Answer(f"it refuses {len(refused)} of the recipients")
            with contextlib.suppress(aiosmtplib.SMTPException):
                await client.quit()
            return answer
        finally:
            client.close()

    @property
    def _domain(self) -> str:
        return self.sender.rpartition("@")[2]

    def _written(self, message: Message) -> EmailMessage:
        text, time = str(message["text"]), str(message["time"])
        subject = _SUBJECTS[str(message["event"])].format_map(message)
        # The same for every attempt: who gets it twice can tell.
        identity = hashlib.sha256(f"{time}\n{text}".encode()).hexdigest()[:32]
        mail = EmailMessage(SMTP_POLICY)
        mail["From"] = f"OpusLive <{self.sender}>"
        mail["To"] = ", ".join(self.recipients)
        mail["Subject"] = f"OpusLive: {subject}"
        mail["Date"] = format_datetime(datetime.fromisoformat(time))
        mail["Message-ID"] = f"<{identity}@{self._domain}>"
        # So that no holiday notice answers it (RFC 3834).
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(f"{text}\n\nTime: {time}\n", charset="utf-8")
        return mail


def _refused(code: int, text: str) -> Answer:
    """What a server's refusal means."""
    again = 0.0 if 400 <= code < 500 else None
    return Answer(f"it answers with {code}", again, _printable(f"{code} {text}"))


def _printable(text: str) -> str:
    line = " ".join(text.split())
    return "".join(char for char in line if char.isprintable())[:_MAX_SAID]
