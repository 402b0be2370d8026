"""Where in the bytes of a connection a request ends and the head of the next one begins.

aiohttp's parser tells of a head when it is whole, and says nothing of the bytes behind it. A
client may send a request and the beginning of the next head in one packet; only a count of
the bytes tells that this next head has begun, and so has its deadline.
"""

from __future__ import annotations

import sys

_HEAD_END = b"\r\n\r\n"
#: More bytes than a connection ever brings.
_ENDLESS = sys.maxsize


class RequestBoundary:
    """Counts the bytes of a connection: those of a body, then those of the next head.

    Call ``feed`` with all bytes that come, and ``parsed`` for each head that the parser has found
    in them. Any split of the same bytes gives the same counts.
    """

    __slots__ = ("_behind", "_body_left", "_tail", "head_bytes")

    def __init__(self) -> None:
        #: Bytes of a head that is not whole yet. (Empty lines before a head are bytes of it.)
        self.head_bytes = 0
        #: Bytes of the current request's body that are still to come.
        self._body_left = 0
        #: The last bytes of the head so far: its end may be split. Empty until its first line.
        self._tail = b""
        #: What came behind a head's end, until the parser has told of that head.
        self._behind: bytes | None = None

    def feed(self, data: bytes) -> None:
        left = self._body_left
        if left >= len(data):
            self._body_left = left - len(data)
            return
        self._body_left = 0
        self._feed_head(data[left:])

    def parsed(self, length: int | None) -> None:
        """The parser has a whole head; its body has ``length`` bytes.

        None: the body's end can't be counted, and nothing behind it will be served.
        """
        behind = self._behind
        self.head_bytes, self._tail, self._behind = 0, b"", None
        if length is None or behind is None:
            self._body_left = _ENDLESS
        elif len(behind) <= length:
            self._body_left = length - len(behind)
        else:
            self._feed_head(behind[length:])

    def _feed_head(self, data: bytes) -> None:
        self.head_bytes += len(data)
        if self._behind is not None:
            self._behind += data
            return
        # The parser skips empty lines before a head: they don't end one.
        text = self._tail + data if self._tail else data.lstrip(b"\r\n")
        end = text.find(_HEAD_END)
        if end < 0:
            self._tail = text[1 - len(_HEAD_END) :]
        else:
            self._behind = text[end + len(_HEAD_END) :]
