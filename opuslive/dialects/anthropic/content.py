"""How large the input of a request is, without decoding it: for the estimate before it is sent.

Text is counted in bytes, where it stands, the JSON around it included. What is no text is counted
by its kind. It is known by its place alone, for whatever a tool was given or a model wrote may
look like anything:

======================================== ===================================================
a block of the messages or the system    counts
======================================== ===================================================
image as base64                          ``IMAGE_TOKENS``; its bytes are left out
PDF as base64                            as many as its base64 has as text, but no fewer than
                                         ``DOCUMENT_TOKENS`` and no more than ``CONTEXT_TOKENS``
image that the provider fetches          ``IMAGE_TOKENS``
document that it fetches, by an address  ``CONTEXT_TOKENS``: nobody here knows how large it is
or as a file; a file for a container
any other                                the text that it is
======================================== ===================================================

Such blocks stand in a message, in the result of a tool within it, or in a document that is made of
blocks. Of a member that stands twice the last one counts, as it does for the provider. A body in
which they can't be read (a provider refuses such a body) counts as text, all of it, and as whatever
else would fill the context. So does one with more than ``body.MAX_OBJECTS`` brackets: a hostile
body costs no more than a large one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from opuslive.dialects import Buffer, InputGuess
from opuslive.dialects.anthropic.relayed import BYTES_PER_TOKEN
from opuslive.dialects.body import has_many_objects

#: Tokens of an image, at most: 92 * 52 patches of 28 * 28 pixels, for an image with 2,576 pixels
#: on its long edge. Larger ones are scaled down.
#: https://platform.claude.com/docs/en/build-with-claude/vision
IMAGE_TOKENS = 4_784
#: Tokens of a PDF, at least: four pages, each as text and as an image. (A page of text was
#: measured to have 2,350 tokens, one with a table 2,480.)
DOCUMENT_TOKENS = 10_000
#: Tokens of the largest context: no request has more input. A PDF of the 600 pages that the
#: provider takes would have more.
#: https://platform.claude.com/docs/en/build-with-claude/pdf-support
CONTEXT_TOKENS = 1_000_000

#: How deep blocks with sources are nested: document in tool result in message, and its blocks.
_DEPTH = 4
_READ = frozenset({"image", "document", "tool_result", "container_upload"})
_NOTHING = msgspec.Raw(b"null")


class _Source(msgspec.Struct, gc=False):
    type: str = ""
    data: msgspec.Raw = _NOTHING
    content: msgspec.Raw = _NOTHING


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    source: _Source | str | None = None
    content: msgspec.Raw = _NOTHING


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = _NOTHING


class _Body(msgspec.Struct, gc=False):
    messages: Sequence[_Message] = ()
    system: msgspec.Raw = _NOTHING


_BODY = msgspec.json.Decoder(_Body)
_BLOCKS = msgspec.json.Decoder(list[_Block])
# ValueError covers strings that are not UTF-8.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def input_guess(body: Buffer) -> InputGuess:
    """Roughly how many tokens the request has. Costs some 20 ms for 30 MB."""
    size = len(body)
    if has_many_objects(body):
        return _guess(size // BYTES_PER_TOKEN, CONTEXT_TOKENS)
    found = _Found()
    try:
        read = _BODY.decode(body)
        for message in read.messages:
            found.blocks(message.content, _DEPTH)
        found.blocks(read.system, _DEPTH)
    except _UNREADABLE:
        return _guess(size // BYTES_PER_TOKEN, CONTEXT_TOKENS)
    return _guess((size - found.left_out) // BYTES_PER_TOKEN + found.tokens, found.fetched)


def _guess(seen: int, unseen: int) -> InputGuess:
    """Both in tokens. What can't be seen fills the context at most."""
    return InputGuess(seen, min(unseen, max(0, CONTEXT_TOKENS - seen)))


class _Found:
    """What is no text, as far as the blocks were read."""

    __slots__ = ("fetched", "left_out", "tokens")

    def __init__(self) -> None:
        #: Bytes that are no text.
        self.left_out = 0
        #: Tokens of what these bytes are.
        self.tokens = 0
        #: Tokens of what the provider fetches.
        self.fetched = 0

    def blocks(self, content: msgspec.Raw, depth: int) -> None:
        """Read the blocks of a content; one that is a text has none.

        Raises what ``_UNREADABLE`` names.
        """
        if bytes(memoryview(content)[:1]) != b"[":
            return
        if not depth:
            raise RecursionError
        for block in _BLOCKS.decode(content):
            if block.type not in _READ:
                continue
            match block.type:
                case "image":
                    self._image(_source(block))
                case "document":
                    self._document(_source(block), depth)
                case "tool_result":
                    self.blocks(block.content, depth - 1)
                case _:
                    self.fetched += CONTEXT_TOKENS

    def _image(self, source: _Source) -> None:
        if source.type == "base64":
            self.left_out += len(memoryview(source.data))
            self.tokens += IMAGE_TOKENS
        else:
            self.fetched += IMAGE_TOKENS

    def _document(self, source: _Source, depth: int) -> None:
        match source.type:
            case "base64":
                size = len(memoryview(source.data))
                self.left_out += size
                as_text = size // BYTES_PER_TOKEN
                self.tokens += min(max(as_text, DOCUMENT_TOKENS), CONTEXT_TOKENS)
            case "content":
                self.blocks(source.content, depth - 1)
            case "text":
                pass
            case _:
                self.fetched += CONTEXT_TOKENS


def _source(block: _Block) -> _Source:
    """Raises ValueError for a block that has none."""
    if not isinstance(block.source, _Source):
        raise ValueError
    return block.source
