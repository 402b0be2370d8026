"""Who may administer over HTTP: HTTP Basic, the user ``admin``, and one password.

The password is proven with bcrypt once, in a worker thread; after that a keyed digest of the
credentials is compared, so a request costs microseconds. There is one password, so there is
one digest to keep. Guesses wait in a line that slows down whoever makes them (``guesses.py``).
Whoever has proven the password goes on meanwhile.

No cookie is involved, but browsers send Basic credentials by themselves, on a request that a
page of somebody else's made as well. Such a request may change nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from functools import partial
from types import MappingProxyType

from aiohttp import web

from opuslive.administration.password import MAX_SENT_PASSWORD, USER, normalized, proves_password
from opuslive.config.in_force import ConfigInForce
from opuslive.web.answers import Handler
from opuslive.web.errors import HttpProblem, Renderer, answered
from opuslive.web.http.guesses import PACE_SECONDS, RequestGuesses
from opuslive.web.http.sites import is_foreign

#: Characters of an Authorization header that can hold such credentials, in base 64.
_MAX_HEADER = 4 * -(-(len(USER) + len(":") + MAX_SENT_PASSWORD) // 3)

BASIC_CHALLENGE = MappingProxyType(
    {"www-authenticate": 'Basic realm="OpusLive administration", charset="UTF-8"'}
)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class AccessDenied(HttpProblem):
    """Somebody is not let in to administer."""


class AdminGate:
    """Lets the administrator in.

    ``now_ms`` is a clock that never goes back, in ms; ``pace`` is in seconds (``guesses.py``).
    """

    def __init__(
        self,
        in_force: ConfigInForce,
        now_ms: Callable[[], int],
        pace: float = PACE_SECONDS,
    ) -> None:
        self._in_force = in_force
        #: The digest of credentials that were proven against the hash.
        self._proven: tuple[bytes, str] | None = None
        self._guesses = RequestGuesses(now_ms, pace)

    @property
    def opens(self) -> bool:
        """Whether a password is set, so that somebody may be let in."""
        return self._in_force.config.admin.password_hash is not None

    def guarded(self, handler: Handler, render: Renderer) -> Handler:
        """The handler for the administrator alone; ``render`` answers everybody else."""

        async def admitted(request: web.Request) -> web.StreamResponse:
            await self.admit(request)
            return await handler(request)

        return answered(admitted, render)

    async def admit(self, request: web.Request) -> None:
        """Let the administrator's own request pass. Raises AccessDenied for any other."""
        password_hash = self._in_force.config.admin.password_hash
        if password_hash is None:
            raise AccessDenied(
                404,
                "Administration over HTTP is switched off, since no password is set: run "
                "'opuslive admin password'.",
            )
        if request.method not in _SAFE_METHODS:
            self._check_origin(request)
        credentials = _credentials(request)
        if credentials is None:
            raise AccessDenied(
                401, f"Sign in with the user name {USER!r} and the admin password.", BASIC_CHALLENGE
            )
        user, _, password = credentials.partition(b":")
        # Normalized: clients that write the password differently are proven by each other.
        known = self._guesses.digest(user + b":" + normalized(password))
        if self._knows(known, password_hash):
            return
        proves = partial(self._proves, user, password, known, password_hash)
        # With the hash: what waits for its proof against an old one is another guess.
        guess = credentials + b"\0" + password_hash.encode("ascii")
        right = await self.judge(request, guess, proves)
        # The password may be another since the guess began to wait.
        if not right or self._in_force.config.admin.password_hash != password_hash:
            raise AccessDenied(401, "The user name or the password is wrong.", BASIC_CHALLENGE)
        self._proven = known, password_hash

    async def judge(
        self, request: web.Request, credentials: bytes, proves: Callable[[], bool]
    ) -> bool:
        """Whether the credentials are right that a request brings, when they have had their turn.

        ``proves`` is called in a thread. Raises AccessDenied where too many were wrong.
        """
        verdict = await self._guesses.judge(request, credentials, proves)
        if verdict.wait_ms:
            raise _too_many(verdict.wait_ms)
        return verdict.right

    def _knows(self, known: bytes, password_hash: str) -> bool:
        """Whether credentials of this digest have been proven against the hash."""
        if self._proven is None or self._proven[1] != password_hash:
            return False
        return hmac.compare_digest(self._proven[0], known)

    def _proves(self, user: bytes, password: bytes, known: bytes, password_hash: str) -> bool:
        """Whether the credentials, whose normalized digest is ``known``, are right. Takes long."""
        if self._knows(known, password_hash):
            return True  # Since it began to wait.
        right = proves_password(password, password_hash.encode("ascii"))
        return hmac.compare_digest(user, USER.encode()) and right

    def _check_origin(self, request: web.Request) -> None:
        """Raises AccessDenied for a change that a page of another site asks for."""
        if is_foreign(request, self._in_force.config.server.public_url):
            raise AccessDenied(
                403,
                "A page of another site may change nothing here. If this is the gateway's own "
                "page, its proxy does not pass on the Host header: let it, or set [server] "
                "public_url.",
            )


def authorization(request: web.Request, scheme: str) -> str | None:
    """What stands behind the scheme in the one ``Authorization`` header; None if none stands there.
    ``scheme`` is in lower case."""
    found = request.headers.getall("Authorization", ())
    named, _, rest = found[0].strip().partition(" ") if len(found) == 1 else ("", "", "")
    return rest.strip() if named.lower() == scheme else None


def _too_many(wait_ms: int) -> AccessDenied:
    seconds = max(1, -(-wait_ms // 1000))
    return AccessDenied(
        429,
        f"Too many wrong passwords or tokens were tried; try again in {seconds} seconds.",
        {"retry-after": str(seconds)},
    )


def _credentials(request: web.Request) -> bytes | None:
    """``user:password`` as it was sent, or None if there are no such credentials."""
    encoded = authorization(request, "basic")
    if encoded is None or len(encoded) > _MAX_HEADER:
        return None
    try:
        credentials = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return credentials if b":" in credentials else None
