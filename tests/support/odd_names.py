"""Names of an administrator's choosing that addresses have to cope with."""

from __future__ import annotations

ODD_NAMES = [
    "a/b", "/", "50%", "%2F", "%252F", "a b", "+", "a+b", "?", "#", "a?b#c", "a&b=c", "ü ñ 日本",
    "\N{SNOWMAN}", "...", ".a", "-", "{name}", "\\", "'\"<b>", ";v=1", "new", "keys", "a//b",
    "a/../b", "x" * 100,
]  # fmt: skip
