"""A certificate that is kept, in the process of the test: the authority is one of ours."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from opuslive.web.acme import papers
from opuslive.web.acme.authority import Authority
from opuslive.web.acme.renewal import Renewal
from opuslive.web.acme.store import Store
from opuslive.web.http.tls import ServerCertificate
from tests.support.acme_directory import AcmeDirectory

TODAY = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NAME = "ai.example.com"


class Installation:
    """A gateway's certificate and what keeps it."""

    def __init__(self, folder: Path) -> None:
        self.now = TODAY
        self.answers: dict[str, str] = {}
        #: Whether the name leads here.
        self.reachable = True
        self.contact = "ops@example.com"
        self.directory = AcmeDirectory(self._fetch, lambda: self.now)
        self._folder = folder
        self._trusted = self.directory.trusted(folder)
        self.rests: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin anew, as a process does that finds its files."""
        self.store = Store(self._folder / "db.acme", self.directory.url, NAME)
        written = self.store.read_account_key()
        account = None if written is None else papers.read_key(written)
        if account is None:
            account = papers.new_key()
            self.store.write_account_key(papers.key_pem(account))
        self.certificate = ServerCertificate(
            self.store.certificate,
            self.store.certificate,
            lambda: self.now.timestamp(),
            stand_in=papers.stand_in_pem(NAME, self.now.timestamp()),
        )
        self.authority = Authority(
            self.directory.url,
            self.contact,
            account,
            ssl.create_default_context(cafile=self._trusted),
            self.answers,
            lambda: self.now.timestamp(),
            self.rests.append,
        )
        self.renewal = Renewal(
            NAME,
            self.authority,
            self.store,
            self.certificate,
            lambda: self.now.timestamp(),
            lambda: 0.5,
        )

    async def step(self, later: timedelta = timedelta()) -> timedelta:
        """Let time pass, then do what is due; return how long nothing else will be."""
        self.now += later
        return timedelta(seconds=await self.renewal.step())

    def stands_in(self) -> bool:
        """Whether what is served only stands in for a certificate."""
        return self.certificate.stands_in

    def orders(self) -> int:
        return len(self.directory.replaced)

    @property
    def serial(self) -> int:
        """That of the certificate on disk."""
        pem = self.store.read_certificate()
        assert pem is not None
        return x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :]).serial_number

    def _fetch(self, token: str) -> bytes | None:
        text = self.answers.get(token) if self.reachable else None
        return None if text is None else text.encode()
