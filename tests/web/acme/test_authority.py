"""What an authority says, in or out of turn: what comes of it, and what is told of it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from opuslive.web.acme import papers
from tests.support.acme_directory import AS_USUAL, Answer, refusal
from tests.support.kept_certificate import DAY, HOUR, NAME, TODAY, Installation


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


@pytest.mark.parametrize("kind", ["unauthorized", "incorrectResponse"])
async def test_a_name_that_leads_to_another_server_is_told_with_the_remedy(
    kept: Installation, kind: str
) -> None:
    """Authorities don't agree on what to call it."""
    kept.reachable = False
    kept.directory.complaint = kind
    await kept.step()
    assert "reached another server at port 80 of the name" in str(
        kept.renewal.status().last_failure
    )


async def test_a_name_that_does_not_lead_here_is_told_with_the_remedy(kept: Installation) -> None:
    kept.reachable = False
    await kept.step()
    assert str(kept.renewal.status().last_failure) == (
        "the certificate authority could not connect to port 80 of the name; let it through to "
        '[server.tls] acme_http_port (it says: "Nobody is there.")'
    )


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
