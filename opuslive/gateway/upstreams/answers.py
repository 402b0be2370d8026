"""What the gateway makes of an upstream's answer head, and of its failures in the log."""

from __future__ import annotations

import os
import socket
import ssl

from opuslive.dialects import RawHeaders
from opuslive.dialects.headers import forward_response_headers
from opuslive.gateway.upstreams.wire import AnswerHead, FailureKind, UpstreamError

#: A stream must reach its reader event by event, through whatever proxies stand between.
_STREAM_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


def check_passable(head: AnswerHead) -> None:
    """Raise UpstreamError for an answer that must not go on to a client.

    That is a redirect: a client that follows it would send its key and its prompt to another
    server; and a compressed one, which the gateway asked not to get: its usage can't be read.
    """
    if 300 <= head.status < 400:
        raise UpstreamError(FailureKind.REDIRECTED)
    if head.is_compressed:
        raise UpstreamError(FailureKind.COMPRESSED)


def answer_headers(head: AnswerHead) -> RawHeaders:
    """The headers that go on to the client."""
    headers = forward_response_headers(head.headers)
    if head.is_event_stream:
        headers = [header for header in headers if header[0].lower() != b"cache-control"]
        headers += _STREAM_HEADERS
    return headers


def reason_of(error: UpstreamError) -> str:
    """Why an upstream could not be reached, for the operator's log: no address in it."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed ({cause.reason})"
    if isinstance(cause, socket.gaierror):
        return "its name can't be resolved"
    if isinstance(cause, TimeoutError):
        return "no connection in time"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return type(cause).__name__ if cause is not None else "no reason given"
