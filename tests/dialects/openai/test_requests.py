"""What decides the bill of a request in OpenAI's format, and which of its bytes change.

The kinds: bounds under each name, of several answers and prompts; members that stand twice or in
other letters; every form in which usage of a stream may have been asked for; every way to reach
what the provider keeps for the account, or to run where nothing is counted.
"""

from __future__ import annotations

import json
import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects import Operation, RequestMembers
from opuslive.dialects.body import MAX_OBJECT_MEMBERS, MAX_OBJECTS
from opuslive.dialects.openai.requests import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MAX_PROMPTS,
    RESPONSES,
    prepare,
    read_request,
)
from opuslive.errors import Code, OpusLiveError

OPERATIONS = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)


def body(**members: Any) -> bytes:
    return json.dumps({"model": "gpt", **members}).encode()


def read(operation: Operation = CHAT, **members: Any) -> RequestMembers:
    return read_request(body(**members), operation)


def refusal(data: bytes, operation: Operation = CHAT) -> str:
    with pytest.raises(OpusLiveError) as raised:
        read_request(data, operation)
    assert raised.value.code is Code.INVALID_REQUEST
    return raised.value.message


# Bounds


@pytest.mark.parametrize(
    ("operation", "members", "bound", "answers"),
    [
        (CHAT, {}, None, 1),
        (CHAT, {"max_tokens": 5}, 5, 1),
        (CHAT, {"max_completion_tokens": 7}, 7, 1),
        (CHAT, {"max_completion_tokens": 7, "max_tokens": 9}, 9, 1),
        (CHAT, {"max_completion_tokens": None, "max_tokens": 9}, 9, 1),
        (CHAT, {"max_output_tokens": 9}, None, 1),
        (CHAT, {"max_tokens": 5, "n_predict": 9}, 9, 1),
        (COMPLETIONS, {"max_tokens": 5, "n_predict": 9, "n": 2}, 18, 2),
        (CHAT, {"max_tokens": 5, "n": 3}, 15, 3),
        (CHAT, {"max_tokens": 5, "n": None}, 5, 1),
        (CHAT, {"max_tokens": 5, "n": 0}, 5, 1),
        (CHAT, {"n": 3}, None, 3),
        (COMPLETIONS, {"max_tokens": 5, "n": 2, "best_of": 4}, 20, 4),
        (COMPLETIONS, {"max_tokens": 5, "n": 2, "prompt": ["a", "b", "c"]}, 30, 6),
        (COMPLETIONS, {"max_tokens": 5, "prompt": [[1, 2], [3]]}, 10, 2),
        (COMPLETIONS, {"max_tokens": 5, "prompt": [1, 2, 3]}, 5, 1),
        (COMPLETIONS, {"max_tokens": 5, "prompt": "a"}, 5, 1),
        (COMPLETIONS, {"max_tokens": 5, "prompt": ['say "a", "b"']}, 5, 1),
        (COMPLETIONS, {"max_tokens": 5, "prompt": []}, 5, 1),
        (RESPONSES, {"max_output_tokens": 5}, 5, 1),
        (RESPONSES, {"max_tokens": 5}, None, 1),
        (EMBEDDINGS, {"input": ["a", "b"]}, 0, 1),
    ],
)
def test_the_output_is_bounded_for_all_answers_together(
    operation: Operation, members: dict[str, Any], bound: int | None, answers: int
) -> None:
    found = read(operation, **members)
    assert (found.max_tokens, found.answers) == (bound, answers)


def test_a_bound_goes_by_the_name_that_its_endpoint_has_for_it() -> None:
    names = [read(operation).bound for operation in (CHAT, COMPLETIONS, RESPONSES)]
    assert names == ["max_completion_tokens", "max_tokens", "max_output_tokens"]


NUMBERS = ("max_tokens", "max_completion_tokens", "n", "n_predict")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [b"-1", b"1.0", b'"5"', b"true", b"1e3", b"4294967296", b"[1]"])
def test_a_bound_that_is_no_number_is_refused(name: str, value: bytes) -> None:
    assert name in refusal(b'{"model":"gpt","%b":%b}' % (name.encode(), value))


DECISIVE = (
    "model", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "n_predict",
    "best_of", "stream", "stream_options", "prompt", "models", "input", "previous_response_id",
    "conversation", "background",
)  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", DECISIVE)
@pytest.mark.parametrize("spelt", ["as it is", "in capitals", "with an escape"])
def test_what_decides_the_bill_stands_once(operation: Operation, name: str, spelt: str) -> None:
    again = {"as it is": name, "in capitals": name.upper()}.get(
        spelt, name.replace(name[0], f"\\u{ord(name[0]):04x}", 1)
    )
    model = "" if name == "model" else '"model":"gpt",'
    data = f'{{{model}"{name}":null,"{again}":null}}'
    assert f"{name!r} stands twice" in refusal(data.encode(), operation)


@pytest.mark.parametrize("name", [name for name in DECISIVE if name != "model"])
def test_other_letters_are_refused_for_some_servers_read_them(name: str) -> None:
    assert "in lower case" in refusal(body(**{name.capitalize(): None}))


def test_options_of_a_stream_say_once_whether_usage_is_asked_for() -> None:
    twice = b'{"model":"gpt","stream":true,"stream_options":{"include_usage":%b,"%b":false}}'
    for again in (b"include_usage", b"Include_Usage", b"include\\u005fusage"):
        assert "'include_usage' stands twice" in refusal(twice % (b"true", again))
    assert "lower case" in refusal(body(stream=True, stream_options={"Include_Usage": True}))
    assert "true or false" in refusal(body(stream=True, stream_options={"include_usage": 1}))
    assert "must be an object" in refusal(body(stream=True, stream_options="x"))


# What changes on the way


@pytest.mark.parametrize("operation", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("sent", "goes"),
    [
        (b'{"model":"m","stream":true}',
         b'{"stream_options":{"include_usage":true},"model":"m","stream":true}'),
        (b' {\t"stream" : true,"model":"m" } ',
         b' {"stream_options":{"include_usage":true},\t"stream" : true,"model":"m" } '),
        (b'{"model":"m","stream":true,"stream_options": null }',
         b'{"model":"m","stream":true,"stream_options": {"include_usage":true} }'),
        (b'{"stream_options":{ },"model":"m","stream":true}',
         b'{"stream_options":{"include_usage":true },"model":"m","stream":true}'),
        (b'{"stream_options":{"a":{"include_usage":true}},"model":"m","stream":true}',
         b'{"stream_options":{"include_usage":true,"a":{"include_usage":true}},"model":"m","stream":true}'),
        (b'{"stream_options":{"a":1,"include_usage" : false},"model":"m","stream":true}',
         b'{"stream_options":{"a":1,"include_usage" : true},"model":"m","stream":true}'),
        (b'{"stream_options":{"include_usage":null},"model":"m","stream":true}',
         b'{"stream_options":{"include_usage":true},"model":"m","stream":true}'),
        (b'{"stream\\u005foptions":{"include_usage":null},"model":"m","stream":true}',
         b'{"stream\\u005foptions":{"include_usage":true},"model":"m","stream":true}'),
    ],
)  # fmt: skip
def test_usage_is_asked_for_where_the_client_does_not(
    operation: Operation, sent: bytes, goes: bytes
) -> None:
    members = read_request(sent, operation)
    assert members.adds_usage
    assert b"".join(prepare(sent, members, "m")) == goes
    assert b"".join(prepare(sent, members, "longer")) == goes.replace(b'"m"', b'"longer"')
    # What went through here once needs no more.
    assert not read_request(goes, operation).adds_usage


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {"stream": False}),
        (CHAT, {}),
        (CHAT, {"stream": None, "stream_options": {"include_usage": False}}),
        (RESPONSES, {"stream": True}),
        (RESPONSES, {"stream": True, "store": True, "stream_options": {"a": 1}}),
        (EMBEDDINGS, {"input": "a", "encoding_format": "base64"}),
    ],
)
def test_nothing_else_changes(operation: Operation, members: dict[str, Any]) -> None:
    sent = body(**members)
    found = read_request(sent, operation)
    assert not found.adds_usage
    assert prepare(sent, found, "gpt") == [sent]
    assert b"".join(prepare(sent, found, "a")) == sent.replace(b'"gpt"', b'"a"')


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name.casefold() not in DECISIVE), values
    ),
    st.none() | st.dictionaries(st.sampled_from(["include_usage", "a"]), st.just(False)),
    st.booleans(),
    st.booleans(),
)
def test_asking_changes_what_is_asked_alone(
    others: dict[str, Any], options: dict[str, bool] | None, escaped: bool, mapped: bool
) -> None:
    document = {**others, "model": "gpt", "stream": True, "stream_options": options}
    sent = json.dumps(document, ensure_ascii=escaped).encode()
    data: bytes | memoryview = sent
    if mapped:
        memory = mmap.mmap(-1, len(sent))
        memory[:] = sent
        data = memoryview(memory)
    members = read_request(data, CHAT)
    goes = json.loads(b"".join(prepare(data, members, "other")))
    asked = {**(options or {}), "include_usage": True}
    assert goes == {**document, "model": "other", "stream_options": asked}


# Models named elsewhere


def test_models_that_a_server_may_take_instead_are_named() -> None:
    assert read(models=["a", "b", "a"]).other_models == ("a", "b")
    for operation in OPERATIONS:
        assert read(operation, models=None).other_models == ()
        assert read(operation, models=["a"]).other_models == ("a",)
        for wrong in ("a", ["a", 1], [""], {"a": 1}, ["a" * 257], ["a"] * 9_999):
            assert "names of models" in refusal(body(models=wrong), operation)


# What is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("previous_response_id", ""),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
    ],
)
def test_what_the_provider_keeps_can_not_be_reached(name: str, value: object) -> None:
    message = refusal(body(**{name: value}), RESPONSES)
    assert message.startswith(f"{name!r} is not offered: ")
    assert "another key's" in message
    assert read(RESPONSES, **{name: None}).model == "gpt"


REFERENCES = (
    b'{"type":"item_reference","id":"msg_1"}',
    b'{"id":"msg_1"}',
    b'{"id":"msg_1","type":null}',
    b'{"ID":"msg_1","Type":"item_reference"}',
    b'{"type":"item\\u005freference","id":"x"}',
    b'{"type":"message","type":"item_reference","role":"user"}',
    b'{"type":"item_reference","type":"message","role":"user"}',
    b'{"t\\u0079pe":"item_reference","role":"user"}',
)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("before", [b"", b'{"role":"user","content":"a"},'])
def test_an_item_that_stands_for_a_kept_one_is_refused(reference: bytes, before: bytes) -> None:
    data = b'{"model":"gpt","input":[%b%b]}' % (before, reference)
    assert refusal(data, RESPONSES).startswith("'item_reference' is not offered: ")


@pytest.mark.parametrize(
    "value",
    [
        "item_reference",
        None,
        [],
        [{"role": "user", "content": "item_reference"}],
        [{"role": "user", "content": [{"type": "input_text", "text": '"type":"item_reference"'}]}],
        [{"type": "function_call_output", "call_id": "c", "output": "item_reference"}],
        [{"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}],
    ],
)
def test_any_other_input_goes_on(value: object) -> None:
    assert read(RESPONSES, input=value, store=True).model == "gpt"


@pytest.mark.parametrize("value", [["item_reference"], [{"role": "user"}, 1], [[]], [None]])
def test_input_that_is_no_list_of_objects_is_refused(value: object) -> None:
    assert "a text or a list of objects" in refusal(body(input=value), RESPONSES)


@pytest.mark.parametrize(
    ("operation", "member", "element", "most"),
    [
        (RESPONSES, "input", '{"role":1}', MAX_OBJECTS),
        (COMPLETIONS, "prompt", '"a"', MAX_PROMPTS),
        (COMPLETIONS, "prompt", "[1]", MAX_PROMPTS),
    ],
)
def test_long_lists_cost_no_more_than_they_may(
    operation: Operation, member: str, element: str, most: int
) -> None:
    def listed(number: int) -> bytes:
        return f'{{"model":"m","{member}":[{",".join([element] * number)}]}}'.encode()

    read_request(listed(most), operation)
    assert "at most" in (message := refusal(listed(most + 1), operation)) or "more" in message
    # A list of something else is not even taken apart.
    numbers = f'{{"model":"m","{member}":[{"1," * 300_000}1]}}'.encode()
    if operation is RESPONSES:
        refusal(numbers, operation)
    else:
        assert read_request(numbers, operation).answers == 1


def test_many_members_cost_no_more_than_they_may() -> None:
    item = b'{%b"role":1}' % (b'"a":1,' * MAX_OBJECT_MEMBERS)
    assert "more than" in refusal(b'{"model":"m","input":[%b]}' % item, RESPONSES)


def test_what_runs_in_the_background_is_refused() -> None:
    assert "can't be counted" in refusal(body(background=True), RESPONSES)
    assert "true or false" in refusal(body(background=1), RESPONSES)
    for value in (False, None):
        assert read(RESPONSES, background=value).model == "gpt"


@pytest.mark.parametrize("data", [b"", b"[]", b"x", b'{"model":1}', b"{}", b'{"model":"\xff"}'])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    for operation in OPERATIONS:
        refusal(data, operation)
