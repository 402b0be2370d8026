"""Requests to an authority that end: in time, after so many bytes, and where they were sent.

The ``acme`` library speaks through ``requests``, which bounds the time between two bytes, reads
answers of any size and follows redirects. So requests go through an adapter of our own: one
connection each, over TLS, closed from outside when its time is up or the process ends.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

#: Seconds for one request and its answer.
EXCHANGE_SECONDS = 30.0
#: Seconds for all of them, from when the transport is made.
TOTAL_SECONDS = 300.0
#: Seconds without a byte.
_SILENCE_SECONDS = 15.0
#: Bytes of an answer's body.
MAX_BODY = 512 * 1024
#: A certificate is not valid yet, or no more: X509_V_ERR_* of OpenSSL's <openssl/x509_vfy.h>.
_BY_CLOCK = (9, 10)


class TransportFailure(Exception):
    """An authority could not be asked, or did not answer. The message says why, in words that
    follow "the certificate authority"."""


class Transport(BaseAdapter):
    """Sends requests. ``close`` may be called from another thread: it ends the one under way."""

    def __init__(
        self,
        context: ssl.SSLContext,
        now: Callable[[], float],
        seconds: float = EXCHANGE_SECONDS,
        total: float = TOTAL_SECONDS,
    ) -> None:
        super().__init__()
        self._context = context
        self._now = now
        self._seconds = seconds
        self._ends = time.monotonic() + total
        self._lock = threading.Lock()
        self._closed = False
        #: Another descriptor of the connection under way, to end it by.
        self._handle: socket.socket | None = None
        #: What the last answer's ``Retry-After`` says, in seconds.
        self.retry_after: float | None = None
        #: Whether the last answer was an error's.
        self.refused = False

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Raises TransportFailure."""
        self.retry_after, self.refused = None, False
        overdue = threading.Event()

        def end() -> None:
            overdue.set()
            self._cut()

        seconds = min(self._seconds, self._ends - time.monotonic())
        if seconds <= 0:
            raise TransportFailure("took too long altogether")
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(request, overdue)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if overdue.is_set():
                raise TransportFailure(
                    f"took longer than {self._seconds:.0f} s to answer"
                ) from None
            raise TransportFailure(_reason(error)) from None
        finally:
            timer.cancel()
            self._let_go()

    def close(self) -> None:
        """End the request under way, and refuse further ones."""
        self._closed = True
        self._cut()

    def _exchange(
        self, request: requests.PreparedRequest, overdue: threading.Event
    ) -> requests.Response:
        """``overdue`` is set when its time is up."""
        url = urlsplit(request.url or "")
        if url.scheme != "https" or not url.hostname:
            raise TransportFailure("named an address that is not https")
        if self._closed:
            raise TransportFailure("was not asked: the gateway ends")
        plain = socket.create_connection((url.hostname, url.port or 443), _SILENCE_SECONDS)
        try:
            with self._lock:
                self._handle = plain.dup()
            # Until now there was nothing to cut.
            if overdue.is_set() or self._closed:
                raise TimeoutError
            # An answer that is cut is an error, not a short one.
            tls = self._context.wrap_socket(
                plain, server_hostname=url.hostname, suppress_ragged_eofs=False
            )
        except BaseException:
            plain.close()
            raise
        connection = http.client.HTTPSConnection(
            url.hostname, url.port or 443, context=self._context
        )
        connection.sock = tls
        try:
            headers = {**request.headers, "Accept-Encoding": "identity", "Connection": "close"}
            content = cast("bytes | str | None", request.body)
            connection.request(request.method or "GET", request.path_url, content, headers)
            with connection.getresponse() as answer:
                body = answer.read(MAX_BODY + 1)
                if len(body) > MAX_BODY:
                    raise TransportFailure(f"answered with more than {MAX_BODY // 1024} KB")
                return self._answered(request, answer, body)
        finally:
            connection.close()

    def _answered(
        self, request: requests.PreparedRequest, answer: http.client.HTTPResponse, body: bytes
    ) -> requests.Response:
        if 300 <= answer.status < 400:
            raise TransportFailure(f"redirects elsewhere (status {answer.status})")
        fields: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for name, value in answer.getheaders():
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        self.retry_after = retry_after(fields.get("Retry-After"), self._now())
        self.refused = answer.status >= 400
        response = requests.Response()
        response.status_code = answer.status
        response.reason = answer.reason
        response.headers = fields
        response.raw = io.BytesIO(body)
        response.request = request
        response.url = request.url or ""
        return response

    def _cut(self) -> None:
        with self._lock:
            if self._handle is not None:
                with contextlib.suppress(OSError):  # It may have ended by itself.
                    self._handle.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None


def retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a ``Retry-After`` asks for (RFC 9110, 10.2.3); None if it can't be read.

    ``now`` is in seconds since the epoch.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, moment.timestamp() - now)


def _reason(error: OSError | http.client.HTTPException | ValueError) -> str:
    """Why an exchange failed. Bytes of the answer are not repeated."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _BY_CLOCK:
        return "has a certificate that is not valid by this machine's clock; check the clock"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "has a certificate that is not accepted; if it is a private one, set acme_ca"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return "speaks no TLS that is spoken here"
    if isinstance(error, socket.gaierror):
        return "has a host name that can't be resolved"
    if isinstance(error, TimeoutError):
        return "could not be reached in time"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return f"could not be reached ({error.strerror})"
    return "broke off its answer, or sent none that is HTTP"
