"""A certificate is got, kept, renewed and got again after failures; the clock is the test's.

The authority is one of our own, over real TLS.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from opuslive.web.acme import papers
from opuslive.web.acme.authority import Authority
from opuslive.web.acme.renewal import Renewal
from opuslive.web.acme.store import Store
from opuslive.web.http.tls import ServerCertificate
from tests.support.acme_directory import AS_USUAL, AcmeDirectory, Answer, refusal
from tests.support.waiting import eventually, soon

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


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    yield installation
    installation.directory.close()


async def test_where_there_is_no_certificate_one_is_got_at_once(
    kept: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive")
    assert kept.stands_in()
    before = kept.renewal.status()
    assert (before.name, before.not_before, before.not_after) == (NAME, None, None)
    assert before.next_attempt == int(TODAY.timestamp() * 1000)
    rest = await kept.step()
    assert not kept.stands_in()
    assert kept.serial == kept.directory.issued[0].serial_number
    assert kept.directory.contacts == ["mailto:ops@example.com"]
    assert kept.answers == {}
    assert rest == timedelta()  # The authority is asked for its advice next.
    assert timedelta(hours=5) < await kept.step() <= timedelta(hours=6)
    status = kept.renewal.status()
    assert status.not_after == int((TODAY + 90 * DAY).timestamp() * 1000)
    assert status.next_attempt == int((TODAY + 60 * DAY).timestamp() * 1000)
    assert "has a new certificate, good until 2027-02-23 00:00 UTC" in caplog.text


async def test_keys_and_certificates_are_for_this_user_alone(kept: Installation) -> None:
    before = os.umask(0)
    try:
        kept.start()
        await kept.step()
    finally:
        os.umask(before)
    made = list(kept.store.folder.parent.rglob("*"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes.pop(kept.store.folder.name) == 0o700
    assert modes == {"account.pem": 0o600, f"{NAME}.pem": 0o600}
    assert stat.S_IMODE(kept.store.folder.parent.stat().st_mode) == 0o700


async def test_a_restart_asks_for_nothing_that_is_there(kept: Installation) -> None:
    await kept.step()
    serial = kept.serial
    kept.directory.asked.clear()
    kept.start()
    assert not kept.stands_in()
    await kept.step(DAY)
    assert kept.serial == serial
    assert kept.directory.asked == ["directory"]  # for its advice on when to renew


async def test_at_two_thirds_of_its_life_it_is_renewed_with_the_same_account(
    kept: Installation,
) -> None:
    await kept.step()
    first = kept.serial
    await kept.step(60 * DAY - HOUR)
    assert kept.serial == first
    await kept.step(HOUR)
    assert kept.serial == kept.directory.issued[1].serial_number != first
    assert kept.directory.replaced == [None, None]
    assert kept.renewal.status().next_attempt == int((TODAY + 120 * DAY).timestamp() * 1000)


async def test_each_certificate_has_a_key_of_its_own(kept: Installation) -> None:
    await kept.step()
    await kept.step(60 * DAY)
    first, second = (each.public_key() for each in kept.directory.issued)
    assert first != second


class TestAdvice:
    """ARI, RFC 9773."""

    @pytest.fixture(autouse=True)
    def advising(self, kept: Installation) -> None:
        kept.directory.window = (30 * DAY, 32 * DAY)

    async def test_it_is_renewed_in_the_window_and_the_order_says_what_it_replaces(
        self, kept: Installation
    ) -> None:
        await kept.step()
        await kept.step()
        status = kept.renewal.status()
        assert status.next_attempt == int((TODAY + 31 * DAY).timestamp() * 1000)
        await kept.step(31 * DAY)
        assert len(kept.directory.issued) == 2
        assert kept.directory.replaced[0] is None
        replaced = kept.directory.replaced[1]
        assert replaced is not None
        assert re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", replaced)

    async def test_a_window_that_comes_forward_is_followed(self, kept: Installation) -> None:
        """So authorities have certificates replaced that they will revoke."""
        await kept.step()
        await kept.step()
        kept.directory.window = (-2 * HOUR, -1 * HOUR)
        await kept.step(timedelta(hours=6, seconds=1))
        assert kept.orders() == 2

    async def test_what_is_advised_to_be_replaced_at_once_is_not_replaced_over_and_over(
        self, kept: Installation
    ) -> None:
        kept.directory.window = (-2 * HOUR, -1 * HOUR)
        for _ in range(60):
            await kept.step(timedelta(seconds=10))
        assert kept.orders() <= 2

    @pytest.mark.parametrize(
        ("said", "span"),
        [
            ("7200", timedelta(hours=2)),
            ("1", timedelta(minutes=1)),
            ("9999999999", DAY),
            ("x", timedelta(hours=6)),
        ],
    )
    async def test_it_is_asked_for_again_when_the_authority_wants(
        self, kept: Installation, said: str, span: timedelta
    ) -> None:
        kept.directory.advice_retry_after = said
        await kept.step()
        assert await kept.step() == span
        kept.directory.asked.clear()
        await kept.step(span - timedelta(seconds=1))
        assert kept.directory.asked == []
        await kept.step(timedelta(seconds=1))
        assert kept.directory.asked == ["directory", "advice"]

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(body={"suggestedWindow": {"start": "2026-12-01T00:00:00Z", "end": "?"}}),
            Answer(body=b"<html>"),
            Answer(body=b"[" * 100_000),
            refusal("serverInternal", status=500),
            Answer(404, b""),
        ],
        ids=["no window", "no JSON", "deep JSON", "an error", "nothing"],
    )
    async def test_without_any_it_is_renewed_at_two_thirds(
        self, kept: Installation, answer: Answer
    ) -> None:
        await kept.step()
        kept.directory.will("advice", answer)
        await kept.step()
        status = kept.renewal.status()
        assert status.next_attempt == int((TODAY + 60 * DAY).timestamp() * 1000)
        assert status.last_failure is None

    async def test_an_authority_that_no_more_knows_what_is_replaced_makes_a_new_order(
        self, kept: Installation
    ) -> None:
        await kept.step()
        kept.directory.will("order", refusal("alreadyReplaced", status=409))
        await kept.step(60 * DAY)
        assert len(kept.directory.issued) == 2

    async def test_an_expired_certificate_is_not_asked_about(self, kept: Installation) -> None:
        await kept.step()
        kept.directory.asked.clear()
        kept.directory.will("account", refusal("serverInternal", status=500))
        await kept.step(91 * DAY)
        assert "advice" not in kept.directory.asked


PROBLEMS: dict[str, tuple[str, Answer, str]] = {
    "down": ("directory", Answer(503, b"Busy"), "refused, or answered against the protocol"),
    "garbage": ("directory", Answer(body=b"\x00\xff" * 99), "can't be understood|against the"),
    "a list": ("directory", Answer(body=[1, 2]), "can't be understood"),
    "deep": ("directory", Answer(body=b"[" * 200_000), "can't be understood"),
    "no directory": ("directory", Answer(body={"newNonce": 7}), "against the protocol"),
    "clear text": (
        "directory",
        Answer(body=dict.fromkeys(("newNonce", "newAccount", "newOrder"), "http://127.0.0.1:9/")),
        "against the protocol|can't be understood|not https",
    ),
    "no nonce": ("nonce", Answer(headers={"replay-nonce": "a"}), "against the protocol"),
    "account": (
        "account",
        refusal("externalAccountRequired"),
        r"external account binding.*\(it says: \"No\.\"\)",
    ),
    "mail": ("account", refusal("invalidContact"), r"the mail address in \[server.tls\] acme"),
    "no location": ("account", Answer(201, {"status": "valid"}), "refused"),
    "name": ("order", refusal("rejectedIdentifier"), "issues no certificate for this name"),
    "caa": ("order", refusal("caa"), "a CAA record"),
    "odd order": ("order", Answer(201, {"status": "?"}, {"location": "x"}), "understood"),
    "invalid order": (
        "finalize",
        Answer(body={"status": "invalid", "authorizations": [], "finalize": "x"}),
        "against the protocol",
    ),
    "no http-01": (
        "authorization",
        Answer(
            body={
                "status": "pending",
                "identifier": {"type": "dns", "value": NAME},
                "challenges": [],
            }
        ),
        "against the protocol",
    ),
    "another name": (
        "authorization",
        Answer(
            body={
                "status": "valid",
                "identifier": {"type": "dns", "value": "evil.example"},
                "challenges": [],
            }
        ),
        "against the protocol",
    ),
    "no chain": ("chain", Answer(body=b"hello"), "can't be used: it holds no chain"),
    "long words": ("order", refusal("caa", "\x1b[31m\n" * 1000), r"says: \"\[31m"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_an_authority_that_does_not_do_its_part_is_asked_again_later(
    kept: Installation, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    resource, answer, words = PROBLEMS[problem]
    kept.directory.will(resource, answer)
    rest = await kept.step()
    status = kept.renewal.status()
    assert status.failures_in_a_row == 1
    assert status.last_failure is not None
    assert re.search(words, status.last_failure), status.last_failure
    assert len(status.last_failure) < 600
    assert status.last_failure.isprintable()
    assert (status.last_failure_at, status.next_attempt) == (
        int(TODAY.timestamp() * 1000),
        int((TODAY + timedelta(minutes=1)).timestamp() * 1000),
    )
    assert "There is no new certificate for ai.example.com: the certificate" in caplog.text
    assert kept.answers == {}
    await kept.step(rest)
    assert not kept.stands_in()
    assert kept.renewal.status().last_failure is None


@pytest.mark.parametrize(
    ("resource", "answer"),
    [
        ("chain", Answer(503, b"")),
        ("chain", Answer(body=b"half a ch")),
        ("look", refusal("serverInternal", status=500)),
    ],
    ids=["refused", "broken", "order refused"],
)
async def test_an_order_that_was_carried_out_is_not_given_up_for_another(
    kept: Installation, resource: str, answer: Answer
) -> None:
    """Authorities issue only so many a week."""
    await kept.step()
    kept.store.certificate.unlink()
    kept.renewal.hurry()
    if resource == "look":
        # It is asked once before it is carried out.
        kept.directory.will(resource, AS_USUAL, answer)
    else:
        kept.directory.will(resource, answer)
    rest = await kept.step()
    assert kept.stands_in() or kept.renewal.status().failures_in_a_row == 1
    await kept.step(rest)
    assert kept.renewal.status().failures_in_a_row == 0
    assert len(kept.directory.issued) == kept.orders() == 2


async def test_an_order_that_comes_to_nothing_is_followed_by_another(kept: Installation) -> None:
    kept.directory.will("chain", *[Answer(503, b"")] * 2)
    rest = await kept.step()
    await kept.step(rest)
    assert not kept.stands_in()
    assert kept.orders() == 2


async def test_a_wait_between_looks_is_no_wish_for_a_pause(kept: Installation) -> None:
    processing = {"status": "processing", "authorizations": [], "finalize": "x"}
    slow = Answer(body=processing, headers={"retry-after": "9999"})
    kept.directory.will("finalize", slow)
    kept.directory.will("look", *[slow] * 100)
    assert await kept.step() == timedelta(minutes=1)


async def test_a_chain_for_another_key_or_name_is_not_used(kept: Installation) -> None:
    stranger = kept.directory.issue(NAME, papers.new_key().public_key())
    kept.directory.will("chain", Answer(body=stranger.public_bytes(Encoding.PEM)))
    await kept.step()
    assert "not for the key" in str(kept.renewal.status().last_failure)
    assert kept.stands_in()
    assert kept.store.read_certificate() is None


async def test_a_certificate_that_has_expired_when_it_comes_is_not_used(
    kept: Installation,
) -> None:
    """So it is where a machine's clock is wrong."""
    kept.directory.life = timedelta(seconds=1)
    kept.directory.now = lambda: TODAY - DAY
    await kept.step()
    assert "has expired already" in str(kept.renewal.status().last_failure)


async def test_only_certificates_and_the_key_get_into_the_file(kept: Installation) -> None:
    await kept.step()
    pem = kept.store.read_certificate()
    assert pem is not None
    assert re.findall(rb"-----BEGIN ([A-Z ]+)-----", pem) == [
        b"PRIVATE KEY",
        b"CERTIFICATE",
        b"CERTIFICATE",
    ]


async def test_a_name_that_does_not_lead_here_is_told_with_the_remedy(kept: Installation) -> None:
    kept.reachable = False
    await kept.step()
    assert str(kept.renewal.status().last_failure) == (
        "the certificate authority could not connect to port 80 of the name; let it through to "
        '[server.tls] acme_http_port (it says: "Nobody is there.")'
    )


async def test_failures_are_told_once_until_something_changes(
    kept: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive")
    for number in range(4):
        kept.directory.will("order", refusal("caa", f"at {number}"))
    kept.directory.will("order", refusal("serverInternal", status=500))
    spans = []
    rest = timedelta()
    for _ in range(6):
        rest = await kept.step(rest)
        spans.append(rest / timedelta(minutes=1))
    told = [record.getMessage() for record in caplog.records if "new cert" in record.getMessage()]
    assert [each for each in told if "CAA" in each] == [told[0]]
    assert "problem of its own" in told[1]
    assert "has a new certificate" in told[2]
    assert len(told) == 3
    assert spans == [1, 2, 4, 8, 16, 0]


async def test_a_rate_limit_is_waited_for_and_no_hurry_ends_the_wait(kept: Installation) -> None:
    kept.directory.will("order", refusal("rateLimited", status=429, retry_after="7200"))
    assert await kept.step() == 2 * HOUR
    kept.renewal.hurry()
    assert await kept.step(HOUR) == HOUR
    assert kept.orders() == 0
    await kept.step(HOUR)
    assert not kept.stands_in()


async def test_a_rate_limit_without_end_is_waited_for_a_day(kept: Installation) -> None:
    kept.directory.will("order", refusal("rateLimited", status=429, retry_after="999999999"))
    await kept.step()
    assert kept.renewal.status().next_attempt == int((TODAY + DAY).timestamp() * 1000)


async def test_a_hurry_ends_the_pause_after_a_failure(kept: Installation) -> None:
    kept.reachable = False
    await kept.step()
    kept.reachable = True
    kept.renewal.hurry()
    await kept.step()
    assert not kept.stands_in()


async def test_the_certificate_from_before_stays_while_its_authority_fails(
    kept: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    await kept.step()
    first = kept.serial
    kept.directory.will("directory", *[Answer(503, b"")] * 2000)
    rest = 60 * DAY
    while kept.now < TODAY + 95 * DAY:
        rest = await kept.step(rest)
    assert kept.serial == first
    status = kept.renewal.status()
    assert status.failures_in_a_row > 100
    assert status.not_after == int((TODAY + 90 * DAY).timestamp() * 1000)
    kept.directory.forget("directory")
    await kept.step(timedelta(hours=8))
    assert kept.serial != first


async def test_looks_at_a_slow_order_are_bounded(kept: Installation) -> None:
    processing = {"status": "processing", "authorizations": [], "finalize": "x"}
    slow = Answer(body=processing, headers={"retry-after": "9999"})
    kept.directory.will("finalize", *[slow] * 500)
    kept.directory.will("look", *[slow] * 500)
    await kept.step()
    assert "did not come to a decision in time" in str(kept.renewal.status().last_failure)
    assert kept.directory.asked.count("look") < 100
    assert max(kept.rests) <= 20


async def test_looks_at_a_slow_challenge_are_bounded(kept: Installation) -> None:
    pending = {
        "status": "pending",
        "identifier": {"type": "dns", "value": NAME},
        "challenges": [{"type": "http-01", "url": "x", "token": "t" * 40, "status": "pending"}],
    }
    await kept.step()
    name = [*kept.directory.orders][-1]
    pending["challenges"][0]["url"] = f"{kept.directory.base}/challenge/{name}"  # type: ignore[index]
    kept.directory.will("authorization", *[Answer(body=pending)] * 500)
    await kept.step(60 * DAY)
    assert "did not come to a decision in time" in str(kept.renewal.status().last_failure)
    assert kept.directory.asked.count("authorization") < 100
    assert kept.answers == {}


async def test_a_file_that_was_removed_is_replaced(kept: Installation) -> None:
    await kept.step()
    kept.store.certificate.unlink()
    kept.renewal.hurry()
    await kept.step()
    assert kept.serial == kept.directory.issued[1].serial_number


async def test_a_broken_file_is_replaced_and_does_not_keep_the_gateway_from_starting(
    kept: Installation,
) -> None:
    await kept.step()
    kept.store.write_certificate(b"half a certif")
    kept.start()
    assert kept.stands_in()
    await kept.step()
    assert kept.serial == kept.directory.issued[1].serial_number
    assert not kept.stands_in()


async def test_a_certificate_that_can_not_be_written_is_kept_until_it_can(
    kept: Installation,
) -> None:
    """Authorities issue only so many a week."""
    folder = kept.store.folder
    moved = folder.rename(folder.with_name("away"))
    await kept.step()
    assert "can't be written to" in str(kept.renewal.status().last_failure)
    moved.rename(folder)
    await kept.step(timedelta(minutes=1))
    assert len(kept.directory.issued) == 1
    assert kept.serial == kept.directory.issued[0].serial_number


async def test_another_directory_has_an_account_and_certificates_of_its_own(
    kept: Installation, tmp_path: Path
) -> None:
    await kept.step()
    other = Store(tmp_path / "db.acme", "https://127.0.0.1/other", NAME)
    assert other.read_account_key() is None
    assert other.read_certificate() is None


async def test_an_account_that_is_known_there_already_gets_the_contact_of_today(
    kept: Installation,
) -> None:
    await kept.step()
    kept.contact = "new@example.com"
    kept.start()
    await kept.step(60 * DAY)
    assert kept.directory.contacts[-1] == "mailto:new@example.com"
    assert len(kept.directory.accounts) == 1


async def test_nonces_that_are_refused_are_replaced(kept: Installation) -> None:
    kept.directory.will("order", *[refusal("badNonce", status=400)] * 3)
    await kept.step()
    assert not kept.stands_in()


async def test_its_end_does_not_wait_for_the_authority(kept: Installation) -> None:
    never = threading.Event()
    kept.directory.will("directory", Answer(wait=never))
    task = asyncio.create_task(kept.renewal.run())
    await eventually(lambda: kept.directory.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    await eventually(lambda: not any(each.name == "acme" for each in threading.enumerate()))
    never.set()


async def test_it_runs_until_it_has_one_and_a_hurry_wakes_it(kept: Installation) -> None:
    kept.reachable = False
    task = asyncio.create_task(kept.renewal.run())
    await eventually(lambda: kept.renewal.status().last_failure)
    kept.reachable = True
    kept.renewal.hurry()
    await eventually(lambda: not kept.stands_in())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
