"""How much a model wrote in the events of a stream, for the estimate of its output.

Most of an event is framing: names, ids, and padding that is there to hide the length of what was
written. So what counts is the text of its deltas, which stands in a few members. The events of a
response that repeat what deltas brought count nothing.
"""

from __future__ import annotations

import re

from opuslive.dialects.sse import HEAD

#: Bytes of answer that make one token, roughly: English has 4 to 4.5, code 3, Chinese 3 to 4.
BYTES_PER_TOKEN = 4

#: What an event begins with that can only be a completion's, or a delta of a response.
PLAIN_STARTS = (
    b'data: {"id":',
    b'data: {"choices":',
    b"event: response.output_text.delta\n",
    b"event: response.reasoning_summary_text.delta\n",
    b"event: response.function_call_arguments.delta\n",
)

_STRING = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)'
#: Where the text of nearly all deltas stands.
_DELTA = re.compile(rb'"delta":(?:\{(?:"role":"assistant",)?"[a-z_]+":)?' + _STRING, re.DOTALL)
#: Where text stands otherwise. (In JSON text a quote has a backslash before it, so none of it can
#: imitate these.)
_TEXTS = re.compile(
    rb'(?<!\\)"(?:delta|text|content|refusal|reasoning|reasoning_content|name|arguments)" ?: ?'
    + _STRING,
    re.DOTALL,
)
#: The name or the type of an event of a response.
_KIND = re.compile(
    rb'(?:\A|[\r\n])event: ?([a-z_.]+)|(?<!\\)"type" ?: ?"(response\.[a-z_.]+)', re.DOTALL
)


def bytes_written(event: bytes, length: int) -> int:
    """Bytes of text in an event of ``length`` bytes, of which ``event`` are the first, or all."""
    kind = _KIND.search(event[:HEAD])
    if kind is not None and not (kind[1] or kind[2]).endswith(b".delta"):
        return 0
    return bytes_in_delta(event, length)


def bytes_in_delta(event: bytes, length: int) -> int:
    """The same of an event that repeats nothing, as one with one of ``PLAIN_STARTS``."""
    found = _DELTA.search(event)
    if found is not None:
        start, end = found.span(1)
        return (length if end == len(event) else end) - start
    written = 0
    for found in _TEXTS.finditer(event):
        start, end = found.span(1)
        written += (length if end == len(event) else end) - start
    return written
