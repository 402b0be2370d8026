"""TLS towards clients: the certificate, taken anew whenever its files change.

The listener has one context for as long as it lives; every handshake asks it for the certificate
of the moment. A renewal makes a whole new context beside it, and only one that is good in every
respect takes the place of the old one: OpenSSL would leave a context that it fails to change
without a key. Connections that were made before go on with what they have.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from opuslive.config.files import others_may_read
from opuslive.errors import UsageError

log = logging.getLogger(__name__)

#: Seconds between two looks at the files.
INTERVAL_SECONDS = 5.0
DAY_SECONDS = 86_400
#: A certificate is reported this long before it expires, or in the last quarter of its life if
#: that is shorter: there are some that last for six days and are renewed after four.
NOTICE_SECONDS = 7 * DAY_SECONDS

_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END", re.DOTALL
)
#: DER tags (X.690, 8.1.2 and 8.14).
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is good, in seconds since the epoch."""

    begins: float
    ends: float


class ServerCertificate:
    """A certificate chain and its private key, in two PEM files.

    ``context`` is what to listen with. ``now`` is the wall clock, in seconds since the epoch.
    """

    def __init__(self, certificate: Path, private_key: Path, now: Callable[[], float]) -> None:
        """Raises UsageError if the files can't be used."""
        self._certificate = certificate
        self._private_key = private_key
        self._now = now
        self._validity: Validity | None = None
        #: Whole days that were left when the administrator was last told.
        self._told: int | None = None
        self._seen = self._signature()
        self._problem = ""
        try:
            self._current = self._load()
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"The certificate {certificate} and its private key can't be used "
                f"({_reason(error)}); check [server.tls]."
            ) from None
        self.context = _blank_context()
        self.context.sni_callback = self._choose
        self._inspect()

    async def watch(self, interval: float = INTERVAL_SECONDS) -> None:
        """Take what changes, until cancelled. ``interval`` is in seconds."""
        while True:
            await asyncio.sleep(interval)
            self.check()

    def check(self) -> None:
        """Take the files if they changed, or could not be used when they were last looked at."""
        # (Links are followed, so that one which leads somewhere else is seen.)
        changed = self._problem or self._signature() != self._seen
        if changed and self._take(repeating=False):
            log.info("the certificate %s was read again", self._certificate)
        self._tell_of_expiry()

    def reload(self) -> bool:
        """Take the files as they are now, because somebody asks for it; return whether they are
        any good. If not, the log has what is wrong, and what there is stays in use."""
        return self._take(repeating=True)

    def _take(self, *, repeating: bool) -> bool:
        """With ``repeating`` what is wrong is said though it is no news."""
        # Before they are read: what changes after that is seen next time.
        seen = self._signature()
        try:
            self._current = self._load()
        except (OSError, ssl.SSLError) as error:
            problem = _reason(error)
            if repeating or (seen, problem) != (self._seen, self._problem):
                log.error(
                    "The certificate %s and its private key can't be used (%s); the one from "
                    "before stays in use.",
                    self._certificate,
                    problem,
                )
            self._seen, self._problem = seen, problem
            return False
        self._seen, self._problem = seen, ""
        self._inspect()
        return True

    def _load(self) -> ssl.SSLContext:
        context = _blank_context()
        context.load_cert_chain(self._certificate, self._private_key, password=_no_passphrase)
        return context

    def _choose(
        self, handshake: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        """Called in each handshake, also of a client that does not say whom it wants."""
        handshake.context = self._current

    def _signature(self) -> tuple[object, ...]:
        return tuple(_file_signature(path) for path in (self._certificate, self._private_key))

    def _inspect(self) -> None:
        """Tell what the administrator should know of the files that were just taken."""
        try:
            if others_may_read(self._private_key.stat()):
                log.warning(
                    "Others may read the private key %s; run 'chmod 600' on it.", self._private_key
                )
            self._validity = validity(self._certificate.read_bytes())
        except OSError:
            self._validity = None  # Changed already: the next look tells.
        self._told = None
        self._tell_of_expiry()

    def _tell_of_expiry(self) -> None:
        """Once a day."""
        if self._validity is None:
            return
        left = self._validity.ends - self._now()
        if left > min(NOTICE_SECONDS, (self._validity.ends - self._validity.begins) / 4):
            return
        days = int(left // DAY_SECONDS)
        if days == self._told:
            return
        self._told = days
        log.warning(
            "The certificate %s %s on %s; renew it.",
            self._certificate,
            "expires" if left > 0 else "expired",
            datetime.fromtimestamp(self._validity.ends, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )


def validity(pem: bytes) -> Validity | None:
    """From when until when the first certificate in a PEM file is good; None if it can't be told.

    Python's ssl reads that from certificates of others only.
    """
    found = _CERTIFICATE.search(pem)
    if found is None:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(
            f"-----BEGIN CERTIFICATE-----\n{found[1].decode('ascii')}-----END CERTIFICATE-----"
        )
        # RFC 5280, 4.1: Certificate is a sequence that begins with TBSCertificate, and that has
        # a version, a serial number, an algorithm, an issuer, and then the validity.
        _, certificate = next(_items(der))
        _, signed = next(_items(certificate))
        members = [item for item in _items(signed) if item[0] != _VERSION]
        begins, ends = (_moment(tag, text.decode("ascii")) for tag, text in _items(members[3][1]))
    except (ValueError, IndexError, StopIteration):
        return None
    return Validity(begins, ends)


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the content of each element, one after the other."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        yield tag, der[at : at + length]
        at += length


def _moment(tag: int, text: str) -> float:
    if tag == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: two digits of a year mean 1950 to 2049.
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _blank_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # It is of no use here, and cheap for a client that means to cost us something.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _no_passphrase() -> str:
    """Called for one, in place of OpenSSL's own asking on the terminal, which would wait."""
    raise OSError(errno.EACCES, "the key has a passphrase")


def _file_signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _reason(error: OSError | ssl.SSLError) -> str:
    """What is wrong, without OpenSSL's own words: those tell where in its source."""
    if not isinstance(error, ssl.SSLError):
        return error.strerror or type(error).__name__
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return "not a certificate and a key in PEM"
