"""How large the content of a request is, without decoding it: for the estimate of its input.

Text is counted in bytes, where it stands. Images and documents come as base64, whose length
says nothing of their tokens, so they are counted in pieces, and their bytes left out. A
piece is a long string of base64 that is the value of a member ``"data"``, or a ``data:`` URL
anywhere. (What looks like one within a text or a tool's schema has escaped quotes, and is not
taken for one.) JSON may write base64 in several ways: PHP escapes each ``/`` as ``\\/``, others
write ``\\u002f``; many tools break lines; and there is an alphabet for URLs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from opuslive.dialects import Buffer

#: Shorter values are counted as the text that they are: too small for an image.
_MIN_BASE64 = 512
#: Pieces looked for, so that a hostile body costs no more than a large one. (Anthropic takes
#: 100 images or pages in a request; what lies beyond counts as text, which is far more.)
_MAX_PIECES = 1000
#: Bytes around a piece in which its media type stands.
_NEIGHBOURHOOD = 200

#: One character of base64, or one that stands between lines of it, as JSON may write it.
_UNIT = rb"(?:[A-Za-z0-9+/_-]|\\[/nr]|\\u00(?:2[BFbf]|0[ADad]))"
_TYPE = rb"[^\",]{0,150}"
_BEGIN = re.compile(
    rb'"data(?:"[ \t\r\n]*:[ \t\r\n]*"(?:data:' + _TYPE + rb",)?|:" + _TYPE + rb";base64,)"
    rb'(?=[^"]{%d})' % _MIN_BASE64
)
_HEAD = re.compile(_UNIT + rb"{64}")
#: How base64 ends: padded, maybe with a line end. (What an escape is cut to is base64, too.)
_END = re.compile(_UNIT + rb"+(?:=|\\u003[Dd])*(?:\\[nr]|\\u000[ADad])*")
#: Bytes of an end that are looked at.
_END_SIZE = 100
_PDF = re.compile(rb"application(?:\\?/|\\u002[Ff])pdf", re.IGNORECASE)
#: What any PDF begins with, in base64.
_PDF_BEGIN = b"JVBERi"


@dataclass(frozen=True, slots=True)
class ContentSize:
    """Bytes of text (the JSON around it included), and how many pieces of base64 there are."""

    text_bytes: int
    images: int = 0
    documents: int = 0


def content_size(body: Buffer) -> ContentSize:
    """Measure a request body. Costs some 20 ms for 30 MB of text."""
    # A memoryview has no find; what it shows, an mmap or bytes, has.
    data = _shown(body) if isinstance(body, memoryview) else body
    text_bytes = len(body)
    images = documents = 0
    position = 0
    while images + documents < _MAX_PIECES:
        begin = _BEGIN.search(data, position)
        if begin is None:
            break
        start = position = begin.end()
        end = data.find(b'"', start)
        if end > 0 and _HEAD.match(data, start) and _END.fullmatch(data, end - _END_SIZE, end):
            before = bytes(data[max(0, begin.start() - _NEIGHBOURHOOD) : start])
            behind = bytes(data[end : end + _NEIGHBOURHOOD])
            # Of its own object alone: the next piece may be of another type.
            if (
                data[start : start + len(_PDF_BEGIN)] == _PDF_BEGIN
                or _PDF.search(before.rpartition(b"{")[2])
                or _PDF.search(behind.partition(b"}")[0])
            ):
                documents += 1
            else:
                images += 1
            text_bytes -= end - start
            position = end
    return ContentSize(text_bytes, images, documents)


def _shown(view: memoryview) -> bytes:
    """What a memoryview shows, without a copy if that is all there is."""
    whole = cast(bytes, view.obj)
    return whole if len(whole) == len(view) else bytes(view)
