"""Requests to an authority end: by time, by size, and where they were sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext, create_default_context

import pytest
import requests

from opuslive.web.acme.transport import MAX_BODY, Transport, TransportFailure, retry_after
from tests.support.acme_directory import AcmeDirectory, Answer
from tests.support.waiting import PATIENCE

NOW = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.fixture
def directory() -> Iterator[AcmeDirectory]:
    directory = AcmeDirectory(lambda token: None, lambda: NOW)
    yield directory
    directory.close()


@pytest.fixture
def trusted(directory: AcmeDirectory, tmp_path: Path) -> SSLContext:
    return create_default_context(cafile=directory.trusted(tmp_path))


def ask(transport: Transport, url: str) -> requests.Response:
    with requests.Session() as session:
        session.mount("https://", transport)
        return session.get(url)


def failure(transport: Transport, url: str) -> str:
    with pytest.raises(TransportFailure) as caught:
        ask(transport, url)
    return str(caught.value)


def test_an_answer_comes_as_it_was_sent(directory: AcmeDirectory, trusted: SSLContext) -> None:
    directory.will("directory", Answer(418, b"x" * MAX_BODY, {"retry-after": "7", "link": "a"}))
    transport = Transport(trusted, NOW.timestamp)
    answer = ask(transport, directory.url)
    assert (answer.status_code, len(answer.content)) == (418, MAX_BODY)
    assert (transport.retry_after, answer.headers["Link"]) == (7.0, "a")


def test_an_answer_without_an_end_is_cut(directory: AcmeDirectory, trusted: SSLContext) -> None:
    """A byte each 10 ms is never silent."""
    directory.will("directory", Answer(drip=True))
    assert "took longer than 0 s" in failure(
        Transport(trusted, NOW.timestamp, seconds=0.2), directory.url
    )


def test_no_request_begins_when_the_time_for_all_of_them_is_over(
    directory: AcmeDirectory, trusted: SSLContext
) -> None:
    transport = Transport(trusted, NOW.timestamp, total=0.0)
    assert "altogether" in failure(transport, directory.url)
    assert directory.asked == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(body=b"x" * (MAX_BODY + 1)), "more than 512 KB"),
        (Answer(301, headers={"location": "https://127.0.0.1:1/"}), "redirects elsewhere"),
        (Answer(307, headers={"location": "/nonce"}), "redirects elsewhere"),
        (Answer(headers={"x-a": "y" * 70_000}), "none that is HTTP"),
        (Answer(headers={f"x-{n}": "y" for n in range(200)}), "none that is HTTP"),
    ],
    ids=["large", "redirect", "redirect of a POST", "long header", "many headers"],
)
def test_what_is_no_answer_is_refused(
    directory: AcmeDirectory, trusted: SSLContext, answer: Answer, words: str
) -> None:
    directory.will("directory", answer)
    assert words in failure(Transport(trusted, NOW.timestamp), directory.url)
    assert directory.asked == ["directory"]


def test_an_authority_that_nobody_vouches_for_is_sent_nothing(directory: AcmeDirectory) -> None:
    transport = Transport(create_default_context(), NOW.timestamp)
    assert "if it is a private one, set acme_ca" in failure(transport, directory.url)
    assert directory.asked == []


def test_a_clock_that_is_wrong_is_told_as_that(
    directory: AcmeDirectory, trusted: SSLContext
) -> None:
    """A machine without a clock of its own wakes up in 1970."""
    context = SSLContext(PROTOCOL_TLS_SERVER)
    begins, ends = NOW - timedelta(days=9), NOW - timedelta(days=8)
    leaf = directory.tls.issue_cert("127.0.0.1", not_before=begins, not_after=ends)
    leaf.configure_cert(context)
    directory.present(context)
    assert "check the clock" in failure(Transport(trusted, NOW.timestamp), directory.url)


def test_nothing_is_asked_in_clear(trusted: SSLContext) -> None:
    with requests.Session() as session:
        session.mount("http://", Transport(trusted, NOW.timestamp))
        with pytest.raises(TransportFailure, match="not https"):
            session.get("http://127.0.0.1:9/")


def test_where_nobody_is_the_reason_is_told(directory: AcmeDirectory, trusted: SSLContext) -> None:
    url = directory.url
    directory.close()
    assert "(Connection refused)" in failure(Transport(trusted, NOW.timestamp), url)


def test_it_can_be_ended_from_another_thread(directory: AcmeDirectory, trusted: SSLContext) -> None:
    never = threading.Event()
    directory.will("directory", Answer(wait=never))
    transport = Transport(trusted, NOW.timestamp)
    failures: list[str] = []
    thread = threading.Thread(target=lambda: failures.append(failure(transport, directory.url)))
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not directory.asked and time.monotonic() < deadline:
        time.sleep(0.001)
    transport.close()
    thread.join(PATIENCE)
    assert len(failures) == 1
    assert "the gateway ends" in failure(transport, directory.url)
    never.set()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 999_999_999_999.0),
        ("Fri, 27 Nov 2026 00:01:00 GMT", 60.0),
        ("Thu, 26 Nov 2026 00:00:00 GMT", 0.0),
        ("Fri, 99 Nov 2026 00:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW.timestamp()) == seconds
