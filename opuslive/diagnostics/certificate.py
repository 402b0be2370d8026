"""The certificate in ``[server.tls]``: its chain, its names, and how long it is good; and how the
one stands that a server gets by itself.

Of files, a handshake in memory tells, between a server with the certificate and a client that
trusts what this machine trusts: it is what clients will see.
"""

from __future__ import annotations

import contextlib
import errno
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from opuslive.administration.certificate import CertificateStatus
from opuslive.config.files import Settings
from opuslive.config.sections import ServerConfig
from opuslive.diagnostics.findings import Finding, error, from_error, ok, warning
from opuslive.errors import UsageError
from opuslive.ownership import check_file

DAY_SECONDS = 86_400
#: Days left below which it is told.
FEW_DAYS = 14
_NAME = "certificate"
#: X509_V_ERR_* of OpenSSL's <openssl/x509_vfy.h>.
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _ADDRESS_MISMATCH = 9, 10, 62, 64
_HELPLESS = "put the whole chain into its file: its own certificate, then those of who signed it"


@dataclass(frozen=True, slots=True)
class Presented:
    """How a client takes the certificate. ``code`` is OpenSSL's, 0 if the client accepts it.

    ``ends`` is in seconds since the epoch, None if it is not known.
    """

    code: int
    reason: str
    ends: float | None


def look(settings: Settings) -> Iterable[Finding]:
    """Blocks for some ms. Nothing without TLS of the gateway's own."""
    server = settings.config.server
    if server.tls is None or server.tls.certificate is None or server.tls.private_key is None:
        return
    host = None if server.public_url is None else urlsplit(server.public_url).hostname
    chain, key = (
        settings.folder / name for name in (server.tls.certificate, server.tls.private_key)
    )
    try:
        yield from judge(present(chain, key, host), host, time.time())
    except UsageError as problem:
        yield from_error(_NAME, problem)
    except (OSError, ssl.SSLError) as problem:
        reason = problem.reason if isinstance(problem, ssl.SSLError) else problem.strerror
        mismatch = reason == "KEY_VALUES_MISMATCH"
        yield error(
            _NAME,
            "the key is not the certificate's" if mismatch else f"can't be used: {reason}",
            "check certificate and private_key in [server.tls]",
        )


def kept(server: ServerConfig, in_use: CertificateStatus | None, now: int) -> Iterable[Finding]:
    """How the certificate stands that the gateway gets by itself; nothing where it does not.

    ``in_use`` is what the server of this process shows, None without a server. ``now`` is in ms
    since the epoch.
    """
    if server.tls is None or server.tls.acme is None:
        return
    if in_use is None or in_use.next_attempt is None:
        yield ok(_NAME, "is got and renewed by the server, while one runs")
        return
    ends, failure = in_use.not_after, in_use.last_failure
    again = (
        f"the next attempt is at {_minute(in_use.next_attempt)}, or at once with 'opuslive reload'"
    )
    if ends is None or ends <= now:
        state = "there is none yet" if ends is None else f"ended at {_minute(ends)}"
        if failure is None:
            yield warning(_NAME, f"{state}: clients refuse what is shown", "wait: it is asked for")
        else:
            yield error(_NAME, f"{state}: {failure}", f"mend that; {again}")
        return
    days = (ends - now) // (DAY_SECONDS * 1000)
    state = f"good for {in_use.name}, and {days} days are left"
    if failure is None:
        yield ok(_NAME, f"{state}; it is renewed at {_minute(in_use.next_attempt)}")
    else:
        yield warning(_NAME, f"{state}, but its renewal fails: {failure}", f"mend that; {again}")


def _minute(time: int) -> str:
    return f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def judge(presented: Presented, host: str | None, now: float) -> Iterable[Finding]:
    """What it means that a client takes the certificate so, at ``now`` (seconds, the epoch)."""
    if presented.code in (_NOT_YET_VALID, _EXPIRED):
        yield error(_NAME, presented.reason, "renew it, and check this machine's clock")
    elif presented.code in (_HOST_MISMATCH, _ADDRESS_MISMATCH):
        yield error(
            _NAME,
            f"is not for {host}, the host of public_url",
            "get one for that name, or correct [server] public_url",
        )
    elif presented.code:
        yield warning(
            _NAME,
            f"clients that trust what this machine does refuse it: {presented.reason}",
            f"{_HELPLESS}; with a private authority, let every client trust it",
        )
    if presented.ends is None:
        return
    days = int((presented.ends - now) // DAY_SECONDS)
    name = "certificate's end"
    if days < FEW_DAYS:
        yield warning(name, f"{days} days are left", "renew it")
    else:
        yield ok(name, f"{days} days are left")
    if not presented.code:
        whose = "" if host is None else f" for {host}"
        yield ok(_NAME, f"good{whose}, with its whole chain")


def present(chain: Path, key: Path, host: str | None) -> Presented:
    """Show the certificate to a client that expects this host. Raises OSError and UsageError."""
    for what, path in (("The certificate", chain), ("The private key", key)):
        check_file(path, what, "name another in [server.tls]")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key, password=_no_passphrase)
    client = ssl.create_default_context()
    client.check_hostname = host is not None
    problem = _shake_hands(server, client, host)
    if isinstance(problem, float):
        return Presented(0, "", problem)
    # Its end is told of what is trusted alone.
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(chain)
    ends = _shake_hands(server, trusting, None)
    return Presented(
        problem.verify_code, problem.verify_message, ends if isinstance(ends, float) else None
    )


def _shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str | None
) -> float | ssl.SSLCertVerificationError:
    """When the certificate ends that the client accepts, or why the client does not."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    while True:
        try:
            near.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as problem:
            return problem
        with contextlib.suppress(ssl.SSLWantReadError):
            far.do_handshake()
    certificate = near.getpeercert()
    assert certificate
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _no_passphrase() -> str:
    """Raise when a key needs a passphrase: OpenSSL would ask on the terminal, and wait."""
    raise OSError(errno.EACCES, "the key has a passphrase")
