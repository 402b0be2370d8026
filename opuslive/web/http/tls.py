"""TLS towards clients: the certificate is read again whenever its files change.

The listener keeps one context; in every handshake that context hands over to the current one,
which holds the certificate. A renewal loads a whole new context, which becomes the current one
only if nothing is wrong with it: OpenSSL leaves a context without a key when it fails to change
it. Connections from before a renewal keep the certificate that they began with.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from opuslive.administration.certificate import CertificateStatus
from opuslive.config.files import others_may_read
from opuslive.errors import UsageError
from opuslive.ownership import check_at_hand, check_file

log = logging.getLogger(__name__)

#: Seconds between two looks at the files.
INTERVAL_SECONDS = 5.0
DAY_SECONDS = 86_400
#: The log warns this many seconds before a certificate expires, or in the last quarter of its
#: life if that is shorter: some certificates last for six days and are renewed after four.
NOTICE_SECONDS = 7 * DAY_SECONDS

_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END", re.DOTALL
)
#: DER tags (X.690, 8.1.2 and 8.14).
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate's validity begins and ends, in seconds since the epoch."""

    begins: float
    ends: float


class ServerCertificate:
    """A certificate chain and its private key, in two PEM files.

    ``context`` is what to listen with. ``now`` is the wall clock, in seconds since the epoch.
    """

    def __init__(
        self,
        certificate: Path,
        private_key: Path,
        now: Callable[[], float],
        *,
        stand_in: bytes | None = None,
        remedy: str = "renew it",
    ) -> None:
        """``stand_in`` (PEM) is served until there are files. When these are removed later, what
        was loaded stays in use. ``remedy`` ends the sentence that warns of the expiry.

        Raises UsageError if the files can't be used and nothing stands in for them, or if another
        user could change them.
        """
        self._certificate = certificate
        self._private_key = private_key
        self._now = now
        self._stand_in = None if stand_in is None else _context_of(stand_in, certificate.parent)
        self._remedy = remedy
        self._validity: Validity | None = None
        #: Whole days that were left when the log last warned.
        self._told: int | None = None
        self._seen = self._signature()
        self._problem = ""
        if self._stand_in is not None:
            self._current = self._stand_in
        try:
            self._current = self._load()
        except (OSError, ssl.SSLError) as error:
            if self._stand_in is None:
                raise self._unusable(error) from None
            self._problem = _reason(error)
            log.error("The certificate %s can't be used (%s).", certificate, self._problem)
        self.context = _blank_context()
        self.context.sni_callback = self._choose
        self._inspect()

    @property
    def validity(self) -> Validity | None:
        """That of the certificate in use; None if it can't be read."""
        return self._validity

    @property
    def stands_in(self) -> bool:
        """Whether what is in use only stands in for a certificate."""
        return self._current is self._stand_in

    def status(self) -> CertificateStatus:
        held = self._validity
        return CertificateStatus(
            name=self._certificate.name,
            not_before=None if held is None else int(held.begins * 1000),
            not_after=None if held is None else int(held.ends * 1000),
        )

    async def watch(self, interval: float = INTERVAL_SECONDS) -> None:
        """Check the files every ``interval`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            self.check()

    def check(self) -> None:
        """Load the files if they changed, or could not be used at the last look."""
        # (The signature is that of a link's target, so that a link that was moved is seen.)
        before = self._current
        changed = self._problem or self.changed
        if changed and self._take() and self._current is not before:
            log.info("the certificate %s was read again", self._certificate)
        self._tell_of_expiry()

    @property
    def changed(self) -> bool:
        """Whether the files are others than those that were loaded last."""
        return self._signature() != self._seen

    def prepare(self) -> Callable[[], None]:
        """Load the files as they are now; what is returned puts them into use.

        Raises UsageError if they can't be used, or if another user could change them.
        """
        seen = self._signature()
        try:
            loaded = self._load()
        except (OSError, ssl.SSLError) as error:
            raise self._unusable(error) from None

        def use() -> None:
            self._seen, self._problem = seen, ""
            if loaded is not self._current:
                self._current = loaded
                self._inspect()

        return use

    def _unusable(self, error: OSError | ssl.SSLError) -> UsageError:
        return UsageError(
            f"The certificate {self._certificate} and its private key can't be used "
            f"({_reason(error)}); check [server.tls]."
        )

    def _take(self) -> bool:
        """Load the files. Of what is wrong the log has a line, if it has none already."""
        # Before the files are read: the next look then sees what changes while they are.
        seen = self._signature()
        try:
            loaded = self._load()
        except (OSError, ssl.SSLError, UsageError) as error:
            problem = _reason(error)
            if (seen, problem) != (self._seen, self._problem):
                log.error(
                    "The certificate %s and its private key can't be used (%s); the one from "
                    "before stays in use.",
                    self._certificate,
                    problem,
                )
            self._seen, self._problem = seen, problem
            return False
        self._seen, self._problem = seen, ""
        if loaded is not self._current:
            self._current = loaded
            self._inspect()
        return True

    def _load(self) -> ssl.SSLContext:
        if self._stand_in is not None and not self._certificate.exists():
            return self._current
        for what, path in (
            ("The certificate", self._certificate),
            ("The private key", self._private_key),
        ):
            check_file(path, what, "name another in [server.tls]")
            check_at_hand(path)
        context = _blank_context()
        context.load_cert_chain(self._certificate, self._private_key, password=_no_passphrase)
        return context

    def _choose(
        self, handshake: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        """OpenSSL calls this in each handshake, also without SNI."""
        handshake.context = self._current

    def _signature(self) -> tuple[object, ...]:
        return tuple(_file_signature(path) for path in (self._certificate, self._private_key))

    def _inspect(self) -> None:
        """Warn of what is wrong with files that were just loaded, and can be used."""
        try:
            if others_may_read(self._private_key.stat()):
                log.warning(
                    "Others may read the private key %s; run 'chmod 600' on it.", self._private_key
                )
            found = validity(self._certificate.read_bytes())
            self._validity = None if self.stands_in else found
        except OSError:
            self._validity = None  # The files have changed again: the next look loads them.
        self._told = None
        self._tell_of_expiry()

    def _tell_of_expiry(self) -> None:
        """Warn once a day."""
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
            "The certificate %s %s on %s; %s.",
            self._certificate,
            "expires" if left > 0 else "expired",
            datetime.fromtimestamp(self._validity.ends, UTC).strftime("%Y-%m-%d %H:%M UTC"),
            self._remedy,
        )


def validity(pem: bytes) -> Validity | None:
    """The validity of the first certificate in a PEM file; None if it can't be read.

    Python's ssl reads the validity of a peer's certificate only.
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
    """The tag and the content of each DER element in turn."""
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
    # Renegotiation is of no use here, and costs an attacker less than us.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _context_of(pem: bytes, folder: Path) -> ssl.SSLContext:
    """A context with the private key and the certificate in this text.

    Python's ssl reads files only, so they are written to the folder for a moment. Raises UsageError
    if they can't be.
    """
    context = _blank_context()
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:  # mode 0600
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
    except OSError as error:
        raise UsageError(
            f"Can't write to the folder {folder} ({error.strerror or error}); let this user write "
            "there."
        ) from None
    return context


def _no_passphrase() -> str:
    """Raise when a key needs a passphrase: OpenSSL would ask on the terminal, and wait."""
    raise OSError(errno.EACCES, "the key has a passphrase")


def _file_signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _reason(error: OSError | ssl.SSLError | UsageError) -> str:
    """What is wrong. OpenSSL's own text names places in its source code instead."""
    if isinstance(error, UsageError):
        return error.message.removesuffix(".")
    if not isinstance(error, ssl.SSLError):
        return error.strerror or type(error).__name__
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return "not a certificate and a key in PEM"
