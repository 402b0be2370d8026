from __future__ import annotations

import contextlib
import json
import mmap
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects import Buffer, NamedModels, RequestMembers
from opuslive.dialects.body import (
    MAX_MEMBERS,
    MAX_MODEL_LENGTH,
    MAX_NAME_LENGTH,
    member_span,
    read_members,
    replace_model,
)
from opuslive.errors import Code, OpusLiveError

CANARY = "canary-7f3a"


def refusal(body: Buffer) -> str:
    with pytest.raises(OpusLiveError) as caught:
        read_members(body)
    assert caught.value.code is Code.INVALID_REQUEST
    assert CANARY not in caught.value.message
    assert caught.value.__cause__ is None
    return caught.value.message


def mapped(body: bytes) -> memoryview:
    area = mmap.mmap(-1, len(body))
    area[:] = body
    return memoryview(area)


def joined(pieces: list[Buffer]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def spelling(name: str, positions: set[int]) -> str:
    """The name as JSON may write it: with these characters escaped."""
    return "".join(
        f"\\u{ord(c):04{'X' if i % 2 else 'x'}}" if i in positions else c
        for i, c in enumerate(name)
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, mapped])
def test_members_are_read_from_any_buffer(kind: type) -> None:
    body = kind(b'{"model":"claude-opus-4-8","max_tokens":128000,"stream":true,"x":[{}]}')
    assert read_members(body) == RequestMembers("claude-opus-4-8", 128000, True)


@pytest.mark.parametrize(
    ("body", "members"),
    [
        (b'{"model":"m"}', RequestMembers("m")),
        (b' \r\n\t{ "model" \n:\t"m" } \n', RequestMembers("m")),
        (b'{"model":"m","stream":false}', RequestMembers("m")),
        (b'{"model":"m","stream":null}', RequestMembers("m")),
        (b'{"model":"m","max_tokens":0}', RequestMembers("m", 0)),
        (b'{"model":"m","max_tokens":1}', RequestMembers("m", 1)),
        (b'{"model":"m","max_tokens":2147483647}', RequestMembers("m", 2**31 - 1)),
        (b'{"mod\\u0065l":"\\u006d"}', RequestMembers("m")),
        ('{"model":"模型"}'.encode(), RequestMembers("模型")),
        (b'{"model":"' + b"x" * MAX_MODEL_LENGTH + b'"}', RequestMembers("x" * MAX_MODEL_LENGTH)),
        (
            b'{"model":"' + b"\\ud83d\\ude00" * MAX_MODEL_LENGTH + b'"}',
            RequestMembers("😀" * MAX_MODEL_LENGTH),
        ),
        # Members of members, and text that looks like one, are no second member.
        (b'{"metadata":{"model":1,"stream":2},"model":"m"}', RequestMembers("m")),
        (b'{"a":"\\",\\"model\\":\\"x\\",","model":"m"}', RequestMembers("m")),
        (b'{"a":"model","b":["model","model"],"model":"m"}', RequestMembers("m")),
        (b'{"a\\"model":1,"model":"m","\\\\":2}', RequestMembers("m")),
    ],
)
def test_the_members_that_matter_are_read(body: bytes, members: RequestMembers) -> None:
    assert read_members(body) == members


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"canary-7f3a", "not valid JSON"),
        (b'{"model":"canary-7f3a"', "not valid JSON"),
        (b'{"model":"m"} canary-7f3a', "not valid JSON"),
        (b'{"model":"m","a":"\x01"}', "not valid JSON"),
        (b'{"model":"m","a":"\\ud800"}', "not valid JSON"),
        (b'["model"]', "JSON object"),
        (b'"model"', "JSON object"),
        (b"null", "JSON object"),
        (b'\xef\xbb\xbf{"model":"m"}', "byte order mark"),
        ('{"model":"m"}'.encode("utf-16"), "UTF-8"),
        (b'{"model":"m","a":"\xff"}', "UTF-8"),
        (b'{"model":"m","a":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"model":"m","a":"' + b"x" * 65520 + b'\xe6\x97"}', "UTF-8"),
        (b'{"model":"\xff"}', "UTF-8"),
        (b"{}", "must name a model"),
        (b'{"MODEL":"canary-7f3a"}', "must name a model"),
        (b'{"model":null}', "must name a model"),
        (b'{"model":""}', "must name a model"),
        (b'{"model":["canary-7f3a"]}', "must name a model"),
        (b'{"model":7}', "must name a model"),
        (b'{"model":"' + b"x" * (MAX_MODEL_LENGTH + 1) + b'"}', "at most 256 characters"),
        (b'{"model":"' + b"x" * 1_000_000 + b'"}', "at most 256 characters"),
        (b'{"model":"m","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"model":' + b"[" * 500 + b"]" * 500 + b"}", "must name a model"),
        (b'{"model":"m"' + b',"":0' * MAX_MEMBERS + b"}", "more than 1000 members"),
        (b'{"model":"m","' + b"x" * (MAX_NAME_LENGTH + 1) + b'":0}', "more than 256 characters"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(body: bytes, says: str) -> None:
    assert says in refusal(body)


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "-5",
        "-0",
        "0.0",
        "1.0",
        "1.5",
        "0e0",
        "1e3",
        "00",
        "true",
        "null",
        '"5"',
        "[5]",
        "2147483648",
        "1" + "0" * 22,
    ],
)
def test_a_bound_on_tokens_that_is_negative_or_no_integer_is_refused(value: str) -> None:
    """Not so 0, with which clients only warm the provider's cache."""
    assert (
        "not valid JSON" if value == "00" else "'max_tokens' must be an integer from 0 on"
    ) in refusal(f'{{"model":"m","max_tokens":{value}}}'.encode())


@pytest.mark.parametrize("value", ["0", "1", '"true"', "[]", "{}", "[true]"])
def test_a_stream_member_that_is_no_boolean_is_refused(value: str) -> None:
    assert "'stream' must be true or false" in refusal(f'{{"model":"m","stream":{value}}}'.encode())


@pytest.mark.parametrize(
    ("own", "named", "largest"), [(5, None, 5), (5, 9, 9), (9, 5, 9), (None, 7, None), (0, 0, 0)]
)
def test_the_largest_bound_of_all_models_counts(
    own: int | None, named: int | None, largest: int
) -> None:
    body = json.dumps({"model": "m"} | ({} if own is None else {"max_tokens": own})).encode()
    elsewhere = NamedModels(("n",), any=True, max_tokens=named)
    read = read_members(body, models_elsewhere=lambda members: elsewhere)
    assert read == RequestMembers("m", largest, other_models=("n",), any_model=True)


@given(
    name=st.sampled_from(["model", "max_tokens", "stream", "stream_options"]),
    first=st.sets(st.integers(0, 13)),
    second=st.sets(st.integers(0, 13)),
    between=st.lists(
        st.sampled_from(['"a":"model"', '"b":{"model":[1]}', '"c":"\\\\"']), max_size=3
    ),
    pad=st.sampled_from(["", " ", "\n\t"]),
)
def test_a_member_that_stands_twice_in_any_spelling_is_refused(
    name: str, first: set[int], second: set[int], between: list[str], pad: str
) -> None:
    value = {"model": '"m"', "max_tokens": "5", "stream": "true", "stream_options": "{}"}[name]
    members = [
        *([] if name == "model" else ['"model":"m"']),
        f'"{spelling(name, first)}"{pad}:{value}',
        *between,
        f'{pad}"{spelling(name, second)}":{pad}{value}',
    ]
    assert f"'{name}' stands twice" in refusal(("{" + ",".join(members) + "}").encode())


@pytest.mark.parametrize("other", ["Model", "MODEL", "m\\u004fdel"])
def test_a_member_name_in_capitals_is_a_repetition(other: str) -> None:
    assert "stands twice" in refusal(f'{{"model":"m","{other}":"x"}}'.encode())


@pytest.mark.parametrize("padding", range(65_530, 65_537))
def test_characters_of_several_bytes_are_read_whole_wherever_they_stand(padding: int) -> None:
    # The check for UTF-8 goes slice by slice; some of these lie across the end of one.
    head = b'{"model":"m","a":"'
    body = head + b"x" * (padding - len(head)) + "😀模é".encode() * 30_000 + b'"}'
    assert read_members(body).model == "m"


def test_large_hostile_bodies_neither_pass_nor_copy_nor_recurse() -> None:
    filler = b'{"model":"x"},"\\u006dodel","\\"model\\":",[[]],' * 50_000
    body = mapped(b'{"a":[' + filler + b'0],"model":"m","b":[' + filler + b"0]}")
    assert read_members(body).model == "m"
    assert joined(replace_model(body, "n")) == (
        b'{"a":[' + filler + b'0],"model":"n","b":[' + filler + b"0]}"
    )


def test_a_deep_stack_makes_nesting_a_refusal_at_most() -> None:
    # Python versions differ in what counts towards the limit: either outcome is right.
    body = b'{"model":"m","a":' + b"[" * 900 + b"]" * 900 + b"}"

    def deeper(frames: int) -> None:
        if frames:
            deeper(frames - 1)
        else:
            with contextlib.suppress(OpusLiveError):
                assert read_members(body).model == "m"

    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    deeper(sys.getrecursionlimit() - depth - 120)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    members=st.dictionaries(st.text(max_size=12), JSON, max_size=8),
    model=st.text(min_size=1, max_size=20),
    new=st.text(min_size=1, max_size=20),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
)
def test_only_the_bytes_of_the_model_change(
    members: dict[str, object], model: str, new: str, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps({**members, "model": model}, ensure_ascii=ascii_only, indent=indent)
    body = text.encode()
    span = member_span(body, "model")
    assert span is not None
    start, end = span
    assert json.loads(body[start:end]) == model
    pieces = replace_model(body, new)
    changed = joined(pieces)
    assert changed[:start] == body[:start]
    assert changed[len(changed) - (len(body) - end) :] == body[end:]
    assert json.loads(changed) == {**members, "model": new}


def test_the_span_of_any_member_is_found() -> None:
    body = b' { "stream_options" : {"include_usage" : false} , "x":[1, 2 ]\n, "model":"m"}'
    for name, value in [("stream_options", b'{"include_usage" : false}'), ("x", b"[1, 2 ]")]:
        span = member_span(body, name)
        assert span is not None
        assert body[slice(*span)] == value
    assert member_span(body, "include_usage") is None
    assert member_span(b"{}", "x") is None


def test_a_replaced_model_shares_the_memory_of_the_body() -> None:
    body = bytearray(b'{"model":"m","a":"b"}')
    before, name, after = replace_model(body, "n")
    assert isinstance(before, memoryview)
    assert isinstance(after, memoryview)
    assert before.obj is body
    assert after.obj is body
    assert name == b'"n"'


def test_replacing_a_missing_model_is_refused() -> None:
    with pytest.raises(OpusLiveError, match="must name a model"):
        replace_model(b"{}", "n")
