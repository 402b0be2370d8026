"""A webhook: an address that gets each alert in a POST, in the format that is read there.

After a network error, a 429 or a 5xx another attempt may help. Any other answer is final: a
redirect is never followed, and what the receiver calls wrong would stay wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import aiohttp
from yarl import URL

from opuslive.alerting import Format
from opuslive.gateway.alerts.alerts import Message
from opuslive.gateway.alerts.delivery import Answer
from opuslive.gateway.alerts.formats import write

#: Seconds that an attempt may take.
TIMEOUT_SECONDS: Final = 10.0
#: Seconds that a receiver may ask to be left alone; more is taken for this.
MAX_RETRY_AFTER: Final = 60.0
#: Bytes of an answer that are read, for the administrator who asks.
_MAX_SAID: Final = 200


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts to ``url``, which may hold a token."""

    url: str = field(repr=False)
    form: Format = "json"
    timeout_seconds: float = TIMEOUT_SECONDS

    @property
    def label(self) -> str:
        return "the alert webhook"

    async def deliver(self, message: Message) -> Answer:
        written = write(message, self.form)
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=self.timeout_seconds),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"user-agent": "OpusLive"},
                    trust_env=False,  # no proxy: it could read the address
                ) as session,
                session.post(
                    # As it was written: a token that is encoded in some way of its own stays valid.
                    URL(self.url, encoded=True),
                    data=written.body,
                    headers=written.headers,
                    allow_redirects=False,
                ) as answer,
            ):
                status, headers = answer.status, answer.headers
                said = f"{status} {self._harmless(await answer.content.read(_MAX_SAID))}".strip()
        # Whatever it is, it must not end the delivery: the next message may have better luck.
        except Exception as error:
            return Answer(f"it can't be reached ({type(error).__name__})", 0.0)
        if 200 <= status < 300:
            return Answer(said=said)
        problem = f"it answers with status {status}"
        if status == 429 or status >= 500:
            return Answer(problem, _retry_after(headers.get("retry-after", "")), said)
        return Answer(problem, None, said)

    def _harmless(self, body: bytes) -> str:
        """The beginning of an answer in one printable line, without the address."""
        text = " ".join(body.decode("utf-8", "replace").split())
        text = "".join(char for char in text if char.isprintable())
        url = URL(self.url, encoded=True)
        for secret in (self.url, url.raw_path_qs, url.raw_path):
            if len(secret) > 1:
                text = text.replace(secret, "…")
        return text


def _retry_after(text: str) -> float:
    """The seconds that the receiver asks for; 0 if it names none, or a date."""
    digits = text.strip()[:9]
    return min(float(digits), MAX_RETRY_AFTER) if digits.isascii() and digits.isdigit() else 0.0
