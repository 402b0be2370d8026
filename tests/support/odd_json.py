"""What a document may hold beside what is wanted of it: JSON that every reader takes, only some, or
none."""

from __future__ import annotations

from hypothesis import strategies as st

ODD = {
    "lone surrogate": rb'"\ud800"',
    "low surrogate first": rb'"\udc00\ud800"',
    "escape of nothing": rb'"\x \u12"',
    "not UTF-8": b'"\xff\xc3"',
    "control character": b'"\x00\x01\n"',
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "large number": b"1e400",
    "many digits": b"9" * 9_999,
    "leading zero": b"007",
    "deep arrays": b"[" * 50_000 + b"]" * 50_000,
    "deep objects": b'{"usage":' * 20_000 + b"1" + b"}" * 20_000,
    "unpaired quotes within": rb'["\"", "\\", "{\"usage\":9}"]',
    "brackets in strings": b'["]}", {"[{": "usage"}]',
}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["usage", "a", '"', "\\", "[{"]), inner, max_size=4)
    ),
    max_leaves=12,
)
