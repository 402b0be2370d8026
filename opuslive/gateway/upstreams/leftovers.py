"""What a lost connection has still to say.

An upstream that refuses a request early (413, 429) answers, and closes before it has read the
request's body. Its kernel then resets the connection, so that writing the body fails here; and
the event loop ends a connection whose write failed without another look at what has arrived. The
answer may lie in the kernel by then: a reset takes nothing back that was received before. It is
read here, in the last moment at which the socket is open. (Under TLS: ``tls.py``.)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

#: Bytes that are read at once.
READ_SIZE = 64 * 1024


def unread(transport: asyncio.BaseTransport) -> Iterator[bytes]:
    """What has arrived on a plain connection and was not read.

    To be called from ``connection_lost``, where the event loop has not closed the socket yet.
    """
    descriptor = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return
    try:
        while data := os.read(descriptor, READ_SIZE):
            yield data
    except OSError:
        # Nothing more has arrived, or nothing more ever will.
        return
