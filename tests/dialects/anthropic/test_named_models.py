"""Which other models a request names.

To this kind belong all places where the protocol takes a model: tools, fallbacks, and tools that
are added later in the messages; each name in any spelling, at any depth and in any order, repeated
members, and values of a wrong kind. What is content, a schema or an echo of an answer names none.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects import RequestMembers
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.dialects.anthropic.named_models import (
    MAX_DECODED,
    MAX_DEFINITION,
    MAX_DEFINITIONS,
    MAX_NAMES,
)
from opuslive.errors import Code, OpusLiveError

OPUS = "claude-opus-4-8"
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": OPUS}
SCHEMA = {
    "name": "ask",
    "input_schema": {"type": "object", "properties": {"model": {"type": "string"}}},
}


def read(body: bytes) -> RequestMembers:
    return AnthropicDialect().read_request(body)


def of(**members: Any) -> RequestMembers:
    return read(json.dumps({"model": "m", **members}).encode())


def refusal(body: bytes) -> str:
    with pytest.raises(OpusLiveError) as raised:
        read(body)
    assert raised.value.code is Code.INVALID_REQUEST
    assert "canary" not in raised.value.message
    return raised.value.message


def added(definition: object) -> list[object]:
    tool = {"type": "tool_definition", "definition": definition}
    return [{"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}]


def compacted(definition: object) -> list[object]:
    tool = {"definition": definition, "type": "tool_definition"}
    changes = [{"tool": tool, "type": "tool_addition"}]
    content = [{"type": "compaction", "content": "x", "tool_changes": changes}]
    return [{"role": "assistant", "content": content}]


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ({"tools": [ADVISOR]}, (OPUS,)),
        ({"tools": [SCHEMA, ADVISOR, SCHEMA]}, (OPUS,)),
        ({"tools": [ADVISOR, ADVISOR]}, (OPUS,)),
        ({"tools": [{"type": "next", "of": [{"model": "a"}], "model": "b"}]}, ("a", "b")),
        ({"tools": [{"type": "next", "model": {"model": "a"}}]}, ("a",)),
        ({"tools": ADVISOR}, (OPUS,)),
        ({"fallbacks": [{"model": OPUS}, {"model": "b", "max_tokens": 9}]}, (OPUS, "b")),
        ({"fallbacks": {"model": OPUS}}, (OPUS,)),
        ({"fallbacks": [OPUS]}, (OPUS,)),
        ({"fallbacks": OPUS}, (OPUS,)),
        ({"tools": [ADVISOR], "fallbacks": [{"model": "b"}]}, (OPUS, "b")),
        ({"messages": added(ADVISOR)}, (OPUS,)),
        ({"messages": added(ADVISOR | {"x": "y" * 10_000})}, (OPUS,)),
        ({"messages": compacted(ADVISOR)}, (OPUS,)),
        ({"messages": [*added(SCHEMA), *compacted(ADVISOR)]}, (OPUS,)),
        ({"messages": added(ADVISOR), "tools": [ADVISOR | {"model": "b"}]}, (OPUS, "b")),
    ],
)
def test_each_model_is_found(members: dict[str, Any], names: tuple[str, ...]) -> None:
    found = of(**members)
    assert set(found.other_models) == set(names)
    assert len(found.other_models) == len(names)
    assert not found.any_model


TEXT = json.dumps({"messages": added(ADVISOR), "tools": [ADVISOR], "fallbacks": "default"})


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"tools": [], "fallbacks": []},
        {"tools": None, "fallbacks": None},
        {"tools": "x", "fallbacks": 5},
        {"tools": [SCHEMA, {"name": "model"}, {"description": '"model":"x"'}]},
        {"tools": [{"name": "x", "input_examples": [{"model": OPUS}]}]},
        {"tools": [{"name": "x", "input_schema": {"model": OPUS}}]},
        {"tools": [{"type": "mcp_toolset", "configs": {"model": {"enabled": True}}}]},
        {"system": TEXT, "messages": [{"role": "user", "content": TEXT}]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"model": OPUS}}]}]},
        {"messages": [{"content": [{"type": "fallback", "to": {"model": OPUS}}]}]},
        {"messages": [{"content": [{"input": {"definition": OPUS, "type": "x"}}]}]},
        {"messages": [{"content": [{"input": {"definition": {"model": OPUS}}}]}]},
        {"metadata": {"model": OPUS}, "output_config": {"tools": [ADVISOR]}},
    ],
)
def test_content_and_schemas_name_none(members: dict[str, Any]) -> None:
    assert of(**members) == RequestMembers("m")


@pytest.mark.parametrize("fallbacks", ['"default"', '["default"]', '"d\\u0065fault"'])
def test_the_provider_may_be_left_to_choose(fallbacks: str) -> None:
    found = read(f'{{"model":"m","fallbacks":{fallbacks}}}'.encode())
    assert (found.other_models, found.any_model) == ((), True)


def test_a_fallback_may_have_a_larger_answer() -> None:
    fallbacks = [{"model": "a", "max_tokens": 700}, {"model": "b", "max_tokens": None}]
    assert of(max_tokens=5, fallbacks=fallbacks).max_tokens == 700
    assert of(max_tokens=900, fallbacks=fallbacks).max_tokens == 900
    assert of(max_tokens=5, tools=[ADVISOR | {"max_tokens": 700}]).max_tokens == 5


def spelt(name: str, escaped: set[int], capitals: set[int]) -> str:
    letters = [c.upper() if i in capitals else c for i, c in enumerate(name)]
    return "".join(
        f"\\u{ord(c):04{'X' if i % 2 else 'x'}}" if i in escaped else c
        for i, c in enumerate(letters)
    )


_places = st.sets(st.integers(0, 10))
_spelt = st.builds(lambda escaped, capitals: (escaped, capitals), _places, _places)
_pad = st.sampled_from(["", " ", "\n\t", "\r\n  "])


@given(_spelt, _spelt, _pad, st.sampled_from(["tools", "fallbacks", "messages"]))
def test_no_spelling_hides_a_model(
    outer: tuple[set[int], set[int]], inner: tuple[set[int], set[int]], pad: str, where: str
) -> None:
    model = f'"{spelt("model", *inner)}"{pad}:{pad}"{spelt(OPUS, inner[0], set())}"'
    entry = f'{{"type":"x",{pad}{model}}}'
    if where == "messages":
        definition = f'{{"a":[],"{spelt("definition", *outer)}"{pad}:{pad}{entry}}}'
        value, name = f'[{{"content":[{{"tool":{definition}}}]}}]', "messages"
    else:
        value, name = f"[{entry}]", spelt(where, *outer)
    body = f'{{"model":"m","{name}"{pad}:{pad}{value}}}'.encode()
    assert read(body).other_models == (OPUS,)


@given(_spelt, _spelt, st.sampled_from(["tools", "fallbacks"]), st.booleans())
def test_a_member_that_stands_twice_in_any_spelling_is_refused(
    first: tuple[set[int], set[int]],
    second: tuple[set[int], set[int]],
    name: str,
    within: bool,
) -> None:
    if within:
        twice = f'"{spelt("model", *first)}":"a","x":1,"{spelt("model", *second)}":["canary"]'
        body, repeated = f'{{"model":"m","{name}":[{{{twice}}}]}}', "model"
    else:
        body = f'{{"model":"m","{spelt(name, *first)}":[],"{spelt(name, *second)}":null}}'
        repeated = name
    assert f"'{repeated}' stands twice" in refusal(body.encode())


def test_a_model_that_stands_twice_in_a_definition_is_refused() -> None:
    twice = b'{"type":"x","model":"a","model":"b"}'
    assert "stands twice" in refusal(b'{"model":"m","messages":[{"definition":%s}]}' % twice)


def test_repeated_messages_and_definitions_are_all_looked_at() -> None:
    def tool(model: str) -> str:
        return f'"definition":{{"type":"x","model":"{model}"}}'

    first, second = f"[{{{tool('a')},{tool('b')}}}]", f"[{{{tool('c')}}}]"
    body = f'{{"messages":{first},"model":"m","messages":{second}}}'
    assert read(body.encode()).other_models == ("a", "b", "c")


def test_names_too_long_or_too_many_are_refused() -> None:
    long = [{"model": "canary" * 100}]
    many = [{"model": f"canary-{number}"} for number in range(MAX_NAMES + 1)]
    for members in ({"tools": long}, {"fallbacks": long}):
        body = json.dumps({"model": "m", **members}).encode()
        assert "at most 256 characters" in refusal(body)
    assert "more than 100 models" in refusal(json.dumps({"model": "m", "tools": many}).encode())


ENTRY = b'{"model":"a","type":"canary"},'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'"tools":[' + ENTRY * (MAX_DECODED // 20) + b"0]", "bytes"),
        (b'"fallbacks":"' + b"canary" * 400_000 + b'"', "bytes"),
        (
            b'"messages":[' + b'{"definition":{"type":"x"}},' * (MAX_DEFINITIONS + 1) + b"0]",
            "more than 1000 definitions",
        ),
        (
            b'"messages":[{"definition":{"type":"' + b"x" * MAX_DEFINITION + b'","model":"a"}}]',
            "too long",
        ),
        (
            b'"messages":[' + (b'{"definition":{"type":"' + b"x" * 200_000 + b'"}},') * 11 + b"0]",
            "more than 2097152 bytes",
        ),
    ],
)
def test_more_than_is_read_is_refused(body: bytes, says: str) -> None:
    assert says in refusal(b'{"model":"m",' + body + b"}")


@pytest.mark.parametrize(
    "messages",
    [
        b'"",' * 9_000_000,
        b'{"definition":""},' * 1_600_000,
        b'"definition",' * 2_000_000,
        b'"\\u0064\\u0065\\u0066",' * 1_400_000,
    ],
)
def test_hostile_messages_cost_no_decoding(messages: bytes) -> None:
    body = b'{"model":"m","messages":[' + messages + b"0]}"
    began = time.process_time()
    assert read(body) == RequestMembers("m")
    assert time.process_time() - began < 2  # some 0.2 s, on a machine with nothing else to do


@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.sampled_from(["default", OPUS]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model", "type", "definition", "tool", "x"]), inner, max_size=3
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["tools", "fallbacks", "messages", "system"]),
)
def test_whatever_stands_there_is_read_or_refused(value: object, where: str) -> None:
    found = of(**{where: value})
    if where == "system" or OPUS not in json.dumps(value):
        assert OPUS not in found.other_models
