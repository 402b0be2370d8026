"""What a request asks for that the price of its tokens does not cover.

To this kind belong the members that choose how an answer is made (speed, tier, region), at the top
level and, of the speed, in ``fallbacks``; tools of the provider that have a fee, in ``tools`` and
where messages add one; each name and each value in any spelling, of any type, given twice; with
values and tools that nobody knows yet. Tools of clients, tools without a fee, schemas, content and
the values at the standard price don't.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from opuslive.dialects import RequestMembers
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.dialects.anthropic.named_models import MAX_DECODED
from opuslive.dialects.anthropic.surcharges import RESULT_TOKENS
from opuslive.errors import Code, OpusLiveError

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
FREE_FETCH = {"type": "web_fetch_20260209", "name": "web_fetch"}
EXECUTION = {"type": "code_execution_20250825", "name": "code_execution"}
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-8"}
CUSTOM = {"type": "custom", "name": "web_search", "input_schema": {"type": "object"}}
PLAIN = {"name": "code_execution", "input_schema": {"type": "object", "properties": {}}}
SERVER = {"type": "url", "name": "a", "url": "https://example.com"}


def read(body: bytes) -> RequestMembers:
    return AnthropicDialect().read_request(body)


def of(**members: Any) -> RequestMembers:
    return read(json.dumps({"model": "m", **members}).encode())


def added(definition: object) -> list[object]:
    tool = {"type": "tool_definition", "definition": definition}
    return [{"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}]


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"speed": "fast"}, "'speed'"),
        ({"speed": "warp"}, "'speed'"),
        ({"speed": 5}, "'speed'"),
        ({"speed": ["fast"]}, "'speed'"),
        ({"Speed": "fast"}, "'speed'"),
        ({"fallbacks": [{"model": "a"}, {"model": "b", "speed": "fast"}]}, "'speed'"),
        ({"fallbacks": {"model": "b", "speed": 5}}, "'speed'"),
        ({"speed": "standard", "fallbacks": [{"model": "b", "speed": "fast"}]}, "'speed'"),
        ({"service_tier": "priority"}, "'service_tier'"),
        ({"service_tier": "x" * 1_000}, "'service_tier'"),
        ({"service_tier": {}}, "'service_tier'"),
        ({"inference_geo": "us"}, "'inference_geo'"),
        ({"inference_geo": ""}, "'inference_geo'"),
        ({"tools": [SEARCH]}, "'web_search'"),
        ({"tools": [PLAIN, CUSTOM, SEARCH]}, "'web_search'"),
        ({"tools": [ADVISOR, SEARCH]}, "'web_search'"),
        ({"tools": SEARCH}, "'web_search'"),
        ({"tools": [SEARCH, 5]}, "'web_search'"),
        ({"tools": [{"type": "web_search_20991231"}]}, "'web_search'"),
        ({"tools": [SEARCH | {"description": "x" * 2_000}]}, "'web_search'"),
        ({"tools": [EXECUTION]}, "'code_execution'"),
        ({"tools": [EXECUTION, FETCH]}, "'code_execution'"),
        ({"tools": [EXECUTION, FREE_FETCH, SEARCH]}, "'web_search'"),
        ({"messages": added(SEARCH)}, "'web_search'"),
        ({"messages": added(EXECUTION), "tools": [PLAIN]}, "'code_execution'"),
    ],
)
def test_what_has_no_price_is_named_with_the_remedy(members: dict[str, Any], named: str) -> None:
    unpriced = of(**members).unpriced
    assert named in unpriced
    assert "leave it out" in unpriced
    assert "warp" not in unpriced


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"speed": "standard", "service_tier": "auto", "inference_geo": "global"},
        {"speed": None, "service_tier": None, "inference_geo": None},
        {"service_tier": "standard_only"},
        {"fallbacks": [{"model": "b", "speed": "standard"}, {"model": "c", "speed": None}]},
        {"tools": [PLAIN, CUSTOM]},
        {"tools": [{"type": "bash_20250124", "name": "bash"}, {"type": "memory_20250818"}]},
        {"tools": [{"type": "tool_search_tool_bm25_20251119"}, ADVISOR]},
        {"tools": [FETCH]},
        {"tools": [EXECUTION, FREE_FETCH]},
        {"tools": [{"name": "x", "input_examples": [SEARCH], "input_schema": {"speed": "fast"}}]},
        {"tools": [], "mcp_servers": [SERVER]},
        {"tools": None},
        {"tools": "web_search_20250305"},
        {"metadata": {"speed": "fast", "tools": [SEARCH]}},
        {"messages": [{"role": "user", "content": json.dumps({"tools": [SEARCH]})}]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"tools": [SEARCH]}}]}]},
        {"messages": [{"content": [{"type": "web_search_tool_result", "content": []}]}]},
    ],
)
def test_the_rest_is_at_the_standard_price(members: dict[str, Any]) -> None:
    assert of(**members).unpriced == ""


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (rb'{"model":"m","sp\u0065ed":"f\u0061st"}', "'speed'"),
        (rb'{"model":"m","inference\u005fgeo" : "us"}', "'inference_geo'"),
        (rb'{"model":"m","tools":[{"typ\u0065" : "w\u0065b\u005fsearch_20250305"}]}', "'web_s"),
        (rb'{"model":"m","t\u006fols":[{"type":"code\u005Fexecution_1"}]}', "'code_e"),
        (b'{"model":"m","tools":[\n{ "name":"a"}\n,\t{"type"\n:"web_search_1" }]}', "'web_s"),
    ],
)
def test_no_spelling_hides_it(body: bytes, named: str) -> None:
    assert named in read(body).unpriced


@pytest.mark.parametrize(
    "body",
    [
        b'"speed":"standard","speed":"fast"',
        b'"speed":"standard","SPEED":"standard"',
        rb'"service_tier":"auto","service\u005ftier":null',
        b'"inference_geo":"us","inference_geo":"global"',
        b'"tools":[{"type":"web_search_1","type":"custom"}]',
        b'"tools":[{"name":"x"},{"type":"custom","name":"y","type":"web_search_1"}]',
        rb'"tools":[{"type":"web_search_1","model":"a","t\u0079pe":"custom"}]',
        b'"messages":[{"definition":{"type":"web_search_1","type":"custom"}}]',
        b'"tools":[],"tools":[{"type":"web_search_1"}]',
    ],
)
def test_what_decides_the_price_stands_once(body: bytes) -> None:
    with pytest.raises(OpusLiveError) as raised:
        read(b'{"model":"m",' + body + b"}")
    assert raised.value.code is Code.INVALID_REQUEST
    assert "stands twice" in raised.value.message


def test_servers_that_are_named_twice_are_named() -> None:
    body = b'{"model":"m","mcp_servers":[{"type":"url"}],"mcp_servers":[]}'
    assert read(body).unseen_input == RESULT_TOKENS


def test_more_tools_than_are_read_are_refused_only_with_one_of_the_provider() -> None:
    many = [PLAIN | {"description": "x" * MAX_DECODED}]
    assert of(tools=many) == RequestMembers("m")
    with pytest.raises(OpusLiveError, match="bytes"):
        of(tools=[*many, SEARCH])


@pytest.mark.parametrize(
    ("members", "kinds"),
    [
        ({}, 0),
        ({"tools": [PLAIN, CUSTOM, ADVISOR]}, 0),
        ({"tools": [SEARCH]}, 1),
        ({"tools": [FETCH]}, 1),
        ({"tools": [FETCH, FREE_FETCH, EXECUTION, SEARCH]}, 3),
        ({"messages": added(FETCH)}, 1),
        ({"mcp_servers": [SERVER]}, 1),
        ({"mcp_servers": [SERVER], "tools": [FETCH], "speed": "fast"}, 2),
        ({"mcp_servers": []}, 0),
        ({"mcp_servers": None}, 0),
    ],
)
def test_what_tools_of_the_provider_bring_in_is_input(members: dict[str, Any], kinds: int) -> None:
    assert of(**members).unseen_input == kinds * RESULT_TOKENS
