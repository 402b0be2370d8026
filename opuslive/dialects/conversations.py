"""What a client names its conversation by, so that all of it can go to one upstream.

The name is opaque here: it is compared, and never kept or shown.
"""

from __future__ import annotations

import msgspec

from opuslive.dialects import Buffer
from opuslive.dialects.body import member_span, mentions
from opuslive.dialects.documents import read_json
from opuslive.errors import OpusLiveError

#: Bytes of a name, at most. Who sends more means something else.
MAX_NAME = 1024

_TEXT = msgspec.json.Decoder(str)


def text_member(body: Buffer, *path: str) -> str | None:
    """The text at a path of members, each the first of its name; None where there is none, or a
    long one, where what should have it is no object, or where its name is spelt with escapes."""
    if not mentions(body, b'"%b"' % path[-1].encode()):
        return None  # As most large bodies tell in a fraction of the time.
    value = memoryview(body)
    for name in path:
        try:
            span = member_span(value, name)
        except OpusLiveError:
            return None
        if span is None:
            return None
        value = value[span[0] : span[1]]
    return read_json(_TEXT, value) if len(value) <= MAX_NAME else None
