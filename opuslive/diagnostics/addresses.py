"""Whether the gateway answers: where it listens, and under its public URL."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence

import aiohttp

from opuslive.config.sections import ServerConfig, check_listen
from opuslive.diagnostics.findings import Finding, error, from_error, ok, warning
from opuslive.errors import UsageError

#: Seconds that an answer may take.
ANSWER_SECONDS = 5.0
_PROBE = "/healthz"


async def listener(
    server: ServerConfig,
    urls: Sequence[str] | None,
    try_listening: Callable[[], Awaitable[object]],
) -> Finding:
    """Whether the server answers at each of ``urls``; None: no server runs, so whether one could
    listen. ``try_listening`` raises UsageError if not."""
    name = "listening address"
    if urls is None:
        try:
            check_listen(server)
            await try_listening()
        except UsageError as refusal:
            return from_error(name, refusal)
        return ok(name, "free; no server runs on this database")
    if server.port == 0:
        return ok(name, "any free port, as [server] port says; it is not asked")
    for url in urls:
        problem = await _problem(url, verify=False)
        if problem is not None:
            return error(name, f"{url} {problem[0]}", problem[1])
    return ok(name, f"{' and '.join(urls)} answers")


async def public_url(server: ServerConfig, *, serving: bool) -> Iterable[Finding]:
    """Whether clients reach the gateway. (From inside a network it may not be reachable.)"""
    name = "public_url"
    if server.public_url is None:
        return []
    if not serving:
        return [ok(name, "not asked, since no server runs on this database")]
    problem = await _problem(server.public_url, verify=True)
    if problem is None:
        return [ok(name, f"{server.public_url} answers")]
    return [warning(name, f"{server.public_url} {problem[0]}", problem[1])]


async def _problem(url: str, *, verify: bool) -> tuple[str, str] | None:
    """Why it does not answer as OpusLive does, and the remedy; None if it does."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            ) as session,
            session.get(url + _PROBE, allow_redirects=False, ssl=verify) as response,
        ):
            body = await response.content.read(100)
            if response.status == 200 and b'"status"' in body:
                return None
            return (
                f"answers, and not as OpusLive does (status {response.status})",
                "let what answers there pass requests on to this gateway",
            )
    except aiohttp.ClientConnectorDNSError:
        return "has a name that can't be resolved", "set its DNS record, or correct public_url"
    except aiohttp.ClientConnectorCertificateError as problem:
        cause = problem.certificate_error
        reason = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else ""
        return (
            f"has a certificate that clients refuse: {reason}",
            "give it a certificate that is good",
        )
    except aiohttp.ClientConnectorError as problem:
        return (
            f"can't be reached: {problem.strerror or 'TLS failed'}",
            "see that the server and what is before it run, and that no firewall is between",
        )
    except TimeoutError:
        return "does not answer in time", "see that no firewall drops what goes there"
    except aiohttp.ClientError:
        return "gives no answer that is HTTP", "see which program listens there"
