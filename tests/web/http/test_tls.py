"""The gateway's own certificate: real handshakes, before, during and after its files change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from opuslive.errors import UsageError
from opuslive.web.http.tls import ServerCertificate, validity
from tests.support.waiting import soon

TODAY = datetime(2026, 11, 25, tzinfo=UTC)
DAY = timedelta(days=1)


class Files:
    """A certificate and its key on disk."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certificate = folder / "chain.pem"
        self.private_key = folder / "key.pem"
        self.now = TODAY

    def issue(self, *, begins: datetime = TODAY - DAY, ends: datetime = TODAY + 90 * DAY) -> bytes:
        """Put a new pair in place; return the certificate."""
        leaf = self.authority.issue_cert("127.0.0.1", not_before=begins, not_after=ends)
        self.put(leaf)
        return leaf.cert_chain_pems[0].bytes()

    def put(self, leaf: trustme.LeafCert) -> None:
        for path, pem in (
            (self.private_key, leaf.private_key_pem.bytes()),
            (self.certificate, leaf.cert_chain_pems[0].bytes()),
        ):
            path.write_bytes(pem)
            path.chmod(0o600)

    def open(self) -> ServerCertificate:
        return ServerCertificate(self.certificate, self.private_key, lambda: self.now.timestamp())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Listener:
    """Echoes lines over TLS."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def dial(
        self, context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await soon(
            asyncio.open_connection("127.0.0.1", self._port, ssl=context or trusting())
        )

    async def serial(self) -> int:
        """The serial number of the certificate that a new connection sees."""
        _, writer = await self.dial()
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return x509.load_der_x509_certificate(der).serial_number


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def serial_of(pem: bytes) -> int:
    return x509.load_pem_x509_certificate(pem).serial_number


@asynccontextmanager
async def listening(certificate: ServerCertificate) -> AsyncIterator[Listener]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                writer.write(line)
        writer.transport.abort()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificate.context)
    yield Listener(server.sockets[0].getsockname()[1])
    server.close()


class TestVersions:
    @staticmethod
    def only(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = trusting()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # with which OpenSSL still offers them
        return context

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    async def test_old_versions_of_tls_are_rejected(
        self, files: Files, version: ssl.TLSVersion
    ) -> None:
        files.issue()
        certificate = files.open()
        hello, nothing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            self.only(version).wrap_bio(nothing, hello).do_handshake()
        assert hello.pending > 0
        with pytest.raises(ssl.SSLError) as refused:
            certificate.context.wrap_bio(hello, nothing, server_side=True).do_handshake()
        assert refused.value.reason == "UNSUPPORTED_PROTOCOL"
        async with listening(certificate) as listener:
            with pytest.raises(ConnectionError):
                await listener.dial(self.only(version))

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_new_versions_of_tls_work(self, files: Files, version: ssl.TLSVersion) -> None:
        files.issue()
        async with listening(files.open()) as listener:
            reader, writer = await listener.dial(self.only(version))
            writer.write(b"hello\n")
            assert await soon(reader.readline()) == b"hello\n"
            writer.transport.abort()


def mismatched(files: Files) -> None:
    files.private_key.write_bytes(files.authority.issue_cert("x.test").private_key_pem.bytes())


def with_passphrase(files: Files) -> None:
    key = serialization.load_pem_private_key(files.private_key.read_bytes(), None)
    files.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )


def a_folder(files: Files) -> None:
    files.private_key.unlink()
    files.private_key.mkdir()


SPOILT: dict[str, tuple[Callable[[Files], object], str]] = {
    "half written": (
        lambda files: files.certificate.write_bytes(files.certificate.read_bytes()[:300]),
        "not a certificate",
    ),
    "empty": (lambda files: files.private_key.write_bytes(b""), "not a certificate"),
    "garbage": (lambda files: files.private_key.write_bytes(os.urandom(900)), "not a certificate"),
    "missing": (lambda files: files.certificate.unlink(), "No such file"),
    "a folder": (a_folder, "can't be used"),
    "mismatched": (mismatched, "the key is not the certificate's"),
    "with a passphrase": (with_passphrase, "passphrase"),
    "open to all": (lambda files: files.certificate.chmod(0o666), "may be written by other users"),
}


class TestChanges:
    async def test_new_connections_see_a_new_certificate_and_old_ones_go_on(
        self, files: Files
    ) -> None:
        first = files.issue()
        certificate = files.open()
        async with listening(certificate) as listener:
            reader, writer = await listener.dial()
            assert await listener.serial() == serial_of(first)
            second = files.issue()
            certificate.check()
            assert await listener.serial() == serial_of(second) != serial_of(first)
            writer.write(b"still here\n")
            assert await soon(reader.readline()) == b"still here\n"
            writer.transport.abort()

    async def test_changes_of_the_certificate_are_looked_for_all_the_time(
        self, files: Files
    ) -> None:
        files.issue()
        certificate = files.open()
        watch = asyncio.ensure_future(certificate.watch(interval=0.001))
        async with listening(certificate) as listener:
            for _ in range(2):
                new = serial_of(files.issue())
                async with asyncio.timeout(20):
                    while await listener.serial() != new:
                        pass
        watch.cancel()

    async def test_a_link_that_leads_to_a_new_certificate_is_followed(
        self, files: Files, tmp_path: Path
    ) -> None:
        """As certbot renews: new files beside the old ones, then the links lead there."""
        live = Files(tmp_path)
        for number in (1, 2):
            (tmp_path / str(number)).mkdir()
            files.certificate = tmp_path / str(number) / "chain.pem"
            files.private_key = tmp_path / str(number) / "key.pem"
            new = files.issue()
            for link, target in (
                (live.private_key, files.private_key),
                (live.certificate, files.certificate),
            ):
                fresh = link.with_suffix(".new")
                fresh.symlink_to(target)
                fresh.replace(link)
            if number == 1:
                certificate = live.open()
        async with listening(certificate) as listener:
            certificate.check()
            assert await listener.serial() == serial_of(new)

    @pytest.mark.parametrize("how", SPOILT)
    async def test_the_old_certificate_stays_in_use_when_the_new_one_is_bad(
        self, files: Files, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log says so once, and new files that are good are taken again."""
        spoil, said = SPOILT[how]
        first = files.issue()
        certificate = files.open()
        spoil(files)
        async with listening(certificate) as listener:
            for _ in range(3):
                certificate.check()
                assert await listener.serial() == serial_of(first)
            (told,) = caplog.records
            assert told.levelno == logging.ERROR
            assert said in told.getMessage()
            assert "stays in use" in told.getMessage()
            if files.private_key.is_dir():
                files.private_key.rmdir()
            second = files.issue()
            certificate.check()
            assert await listener.serial() == serial_of(second)
        assert len(caplog.records) == 1

    async def test_a_reload_takes_a_good_certificate_and_no_bad_one(self, files: Files) -> None:
        first = files.issue()
        certificate = files.open()
        mismatched(files)
        with pytest.raises(UsageError, match="can't be used"):
            certificate.prepare()
        async with listening(certificate) as listener:
            assert await listener.serial() == serial_of(first)
            second = files.issue()
            use = certificate.prepare()
            assert await listener.serial() == serial_of(first)
            use()
            assert await listener.serial() == serial_of(second)

    def test_a_pipe_in_place_of_a_file_is_not_waited_for(self, files: Files) -> None:
        files.issue()
        certificate = files.open()
        files.private_key.unlink()
        os.mkfifo(files.private_key, 0o600)
        with pytest.raises(UsageError, match="Not a regular file"):
            certificate.prepare()

    def test_it_tells_whether_the_files_are_others(self, files: Files) -> None:
        files.issue()
        certificate = files.open()
        seen = [certificate.changed]
        files.issue()
        seen.append(certificate.changed)
        certificate.prepare()()
        assert [*seen, certificate.changed] == [False, True, False]

    async def test_a_certificate_that_could_not_be_read_is_tried_again(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Too many open files, say: nothing about the files changes when that is over."""
        files.issue()
        certificate = files.open()
        second = files.issue()
        with monkeypatch.context() as patched:
            patched.setattr(ssl.SSLContext, "load_cert_chain", _no_descriptor)
            certificate.check()
        certificate.check()
        async with listening(certificate) as listener:
            assert await listener.serial() == serial_of(second)

    async def test_the_certificate_is_not_read_again_while_it_does_not_change(
        self, files: Files, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "opuslive")
        files.issue()
        certificate = files.open()
        certificate.check()
        assert caplog.messages == []
        files.issue()
        certificate.check()
        certificate.check()
        assert len(caplog.messages) == 1


def _no_descriptor(*_: object, **__: object) -> None:
    raise OSError(24, "Too many open files")


class TestAtTheStart:
    @pytest.mark.parametrize("how", SPOILT)
    def test_a_bad_certificate_at_the_start_is_a_usage_error(self, files: Files, how: str) -> None:
        spoil, _ = SPOILT[how]
        files.issue()
        spoil(files)
        with pytest.raises(UsageError) as raised:
            files.open()
        assert str(files.certificate) in raised.value.message
        assert "[server.tls]" in raised.value.message

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o604])
    def test_a_private_key_that_others_may_read_is_logged(
        self, files: Files, mode: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        files.issue()
        files.private_key.chmod(mode)
        certificate = files.open()
        assert ("Others may read the private key" in caplog.text) == bool(mode & 0o077)
        files.private_key.chmod(0o644)
        caplog.clear()
        certificate.check()
        assert "Others may read the private key" in caplog.text

    @pytest.mark.parametrize("mode", [0o602, 0o666])
    def test_a_private_key_that_others_may_write_is_refused(self, files: Files, mode: int) -> None:
        files.issue()
        files.private_key.chmod(mode)
        with pytest.raises(UsageError) as raised:
            files.open()
        assert f"The private key {files.private_key} is not used" in raised.value.message


class TestExpiry:
    @pytest.mark.parametrize(
        ("life", "left", "said"),
        [
            (90, 60.0, None),
            (90, 7.1, None),
            (90, 6.5, "expires on 2026-12-01 12:00 UTC"),
            (90, 0.1, "expires on"),
            (90, -0.1, "expired on 2026-11-24 21:36 UTC"),
            (6, 2.0, None),
            (6, 1.4, "expires on"),
            (18_000, -20.0, "expired on"),
            (18_000, 9_000.0, None),
        ],
    )
    def test_expiry_is_logged_in_time(
        self,
        files: Files,
        life: int,
        left: float,
        said: str | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        ends = TODAY + left * DAY
        files.issue(begins=ends - life * DAY, ends=ends)
        files.open()
        assert (said in caplog.text) if said else (caplog.text == "")

    def test_expiry_is_logged_once_a_day(
        self, files: Files, caplog: pytest.LogCaptureFixture
    ) -> None:
        files.issue(begins=TODAY - 82 * DAY, ends=TODAY + 8 * DAY)
        certificate = files.open()
        for _ in range(10 * 24):
            files.now += timedelta(hours=1)
            certificate.check()
        assert len(caplog.messages) == 10
        assert sum("expired" in message for message in caplog.messages) == 2
        caplog.clear()
        files.issue(ends=files.now + 90 * DAY)
        certificate.check()
        assert caplog.messages == []

    def test_validity_is_read_from_a_file_with_text_before_the_certificate(
        self, files: Files
    ) -> None:
        pem = files.issue()
        found = validity(b"Bag Attributes\n  friendlyName: x\n" + pem)
        assert found is not None
        assert found == validity(pem)
        parsed = x509.load_pem_x509_certificate(pem)
        assert found.begins == parsed.not_valid_before_utc.timestamp()
        assert found.ends == parsed.not_valid_after_utc.timestamp()

    def test_validity_of_what_is_no_certificate_is_none(self, files: Files) -> None:
        pem = files.issue()
        for text in (b"", b"-----BEGIN CERTIFICATE-----\nMA==\n-----END", pem[:60], pem[50:]):
            assert validity(text) is None
        for end in range(0, 200, 3):
            validity(pem[:80] + pem[80 + end : 400] + b"\n-----END CERTIFICATE-----\n")


async def test_no_connection_fails_while_the_certificate_changes(files: Files) -> None:
    """Not even while the certificate and the key don't fit each other."""
    files.issue()
    certificate = files.open()

    async def renew() -> None:
        for _ in range(20):
            mismatched(files)
            certificate.check()
            await asyncio.sleep(0)
            files.issue()
            certificate.check()
            await asyncio.sleep(0)

    async with listening(certificate) as listener:
        renewing = asyncio.ensure_future(renew())
        while not renewing.done():
            await asyncio.gather(*(listener.serial() for _ in range(4)))
        await renewing
