"""Which conversation a request belongs to, as Claude Code and the Agent SDK tell it.

They send the id of their session in a header, and in ``metadata.user_id``: that is a JSON object in
a text, or, in older versions, ``user_…_account_…_session_<id>``.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from opuslive.dialects import Buffer, RawHeaders
from opuslive.dialects.conversations import MAX_NAME, text_member
from opuslive.dialects.documents import read_json

_HEADER: Final = b"x-claude-code-session-id"
_SESSION: Final = re.compile(r"_session_(.+)", re.DOTALL)


class _User(msgspec.Struct):
    session_id: str = ""


_USER: Final = msgspec.json.Decoder(_User)


def conversation(headers: RawHeaders, body: Buffer) -> bytes | None:
    """See ``Dialect.conversation``. A ``user_id`` without a session names no conversation."""
    for name, value in headers:
        if name.lower() == _HEADER and 0 < len(value) <= MAX_NAME:
            return value
    user = text_member(body, "metadata", "user_id")
    if user is None:
        return None
    told = read_json(_USER, user.encode("utf-8", "replace"))
    if told is not None:
        session = told.session_id
    else:
        found = _SESSION.search(user)
        session = "" if found is None else found[1]
    return session.encode("utf-8", "replace") or None
