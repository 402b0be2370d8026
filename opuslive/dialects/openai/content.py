"""How large the input of a request is, without decoding it: for the estimate before it is sent.

Text is counted in bytes, where it stands, the JSON around it included. What is no text is known by
its place alone, for what a tool returned or a model wrote may look like anything:

=================================================== ============================================
a part of a message or of an item of the input      counts
=================================================== ============================================
``image_url``, whether inline or by an address       ``IMAGE_TOKENS``; the bytes of an inline one
                                                     are left out
``file_data``                                        as many as its base64 has as text, but no fewer
                                                     than ``FILE_TOKENS``
``input_audio``                                      a token for ``AUDIO_BYTES`` of its base64
a file by its id or an address                       ``UNSEEN_TOKENS``: nobody here knows how large
                                                     it is
any other                                            the text that it is
=================================================== ============================================

A body that can't be read counts as text, all of it, and as one file that nobody sees. So does one
with more than ``body.MAX_OBJECTS`` brackets: a hostile body costs no more than a large one.
"""

from __future__ import annotations

import msgspec

from opuslive.dialects import Buffer, InputGuess
from opuslive.dialects.body import has_many_objects
from opuslive.dialects.documents import read_json
from opuslive.dialects.openai.written import BYTES_PER_TOKEN

#: Tokens of an image, at most: the patches of 32 * 32 pixels that one of the largest size is cut
#: into, by the largest factor with which a model counts them.
#: https://platform.openai.com/docs/guides/images-vision
IMAGE_TOKENS = 3_779
#: Tokens of a file, at least: a few pages, each as text and as an image.
FILE_TOKENS = 10_000
#: Tokens of what only the provider can see: a large document.
UNSEEN_TOKENS = 125_000
#: Bytes of base64 that make one token of audio: a tenth of a second, 270 bytes at 16 kbit/s.
AUDIO_BYTES = 256

_NOTHING = msgspec.Raw(b"null")


class _File(msgspec.Struct, gc=False):
    file_data: msgspec.Raw = _NOTHING
    file_id: msgspec.Raw = _NOTHING
    file_url: msgspec.Raw = _NOTHING


class _Audio(msgspec.Struct, gc=False):
    data: msgspec.Raw = _NOTHING


class _Part(_File, gc=False):
    image_url: msgspec.Raw = _NOTHING
    input_audio: _Audio | None = None
    file: _File | None = None


class _Item(msgspec.Struct, gc=False):
    content: msgspec.Raw = _NOTHING
    output: msgspec.Raw = _NOTHING


class _Body(msgspec.Struct, gc=False):
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING


_BODY = msgspec.json.Decoder(_Body)
_ITEMS = msgspec.json.Decoder(list[_Item])
_PARTS = msgspec.json.Decoder(list[_Part])
_PART = msgspec.json.Decoder(_Part)


def input_guess(body: Buffer) -> InputGuess:
    """Roughly how many tokens the request has. Costs some 20 ms for 30 MB."""
    size = len(body)
    read = None if has_many_objects(body) else read_json(_BODY, body)
    if read is None:
        return InputGuess(size // BYTES_PER_TOKEN, UNSEEN_TOKENS)
    left_out = tokens = unseen = 0
    for items in (read.messages, read.input):
        for item in read_json(_ITEMS, memoryview(items)) or ():
            for parts in (item.content, item.output):
                for part in _parts(parts):
                    if _is_fetched(part):
                        unseen += UNSEEN_TOKENS
                        continue
                    more_left_out, more_tokens = _measured(part)
                    left_out += more_left_out
                    tokens += more_tokens
    return InputGuess((size - left_out) // BYTES_PER_TOKEN + tokens, unseen)


def _parts(content: msgspec.Raw) -> list[_Part]:
    """The parts of a content; a text has none, and what a computer shows is one."""
    if _begins(content, b"["):
        return read_json(_PARTS, memoryview(content)) or []
    part = read_json(_PART, memoryview(content)) if _begins(content, b"{") else None
    return [] if part is None else [part]


def _is_fetched(part: _Part) -> bool:
    """Whether the part is a file that only the provider can see."""
    file = part.file or part
    named = not (_begins(file.file_id, b"n") and _begins(file.file_url, b"n"))
    return named and _begins(part.image_url, b"n") and _begins(file.file_data, b"n")


def _measured(part: _Part) -> tuple[int, int]:
    """The bytes of a part that are no text, and its tokens beside the text."""
    if not _begins(part.image_url, b"n"):
        inline = b"data:" in bytes(memoryview(part.image_url)[:40])
        return len(memoryview(part.image_url)) if inline else 0, IMAGE_TOKENS
    if part.input_audio is not None:
        size = len(memoryview(part.input_audio.data))
        return size, size // AUDIO_BYTES
    file = part.file or part
    if not _begins(file.file_data, b"n"):
        size = len(memoryview(file.file_data))
        return size, max(size // BYTES_PER_TOKEN, FILE_TOKENS)
    return 0, 0


def _begins(value: msgspec.Raw, character: bytes) -> bool:
    """Whether a JSON value begins so. (Nothing but null begins with "n".)"""
    return bytes(memoryview(value)[:1]) == character
