"""What costs more than the tokens at their standard price.

The kinds: a tier of service; tools that run at the provider, of chat completions and of responses,
known or not; speech. Each may be spelt with escapes, stand twice, or be what nobody can read.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from opuslive.dialects.openai.requests import CHAT, EMBEDDINGS, RESPONSES, read_request
from opuslive.dialects.openai.surcharges import RESULT_TOKENS
from opuslive.errors import Code, OpusLiveError

FUNCTION = {"type": "function", "function": {"name": "priority", "parameters": {"type": "shell"}}}


def body(**members: Any) -> bytes:
    return json.dumps({"model": "gpt", **members}).encode()


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"service_tier": "auto"},
        {"service_tier": "default"},
        {"service_tier": "flex"},
        {"service_tier": None, "tools": None, "audio": None, "modalities": None},
        {"tools": []},
        {"tools": [FUNCTION, {"type": "custom"}, {"name": "untyped"}, {"type": "local_shell"}]},
        {"modalities": ["text"], "web_search_options": None},
    ],
)
def test_what_costs_the_standard_price_is_priced(members: dict[str, Any]) -> None:
    for operation in (CHAT, RESPONSES, EMBEDDINGS):
        read = read_request(body(**members), operation)
        assert (read.unpriced, read.unseen_input) == ("", 0)


@pytest.mark.parametrize(
    ("members", "named", "kinds"),
    [
        ({"service_tier": "priority"}, "'service_tier'", 0),
        ({"service_tier": "scale"}, "'service_tier'", 0),
        ({"service_tier": 1}, "'service_tier'", 0),
        ({"web_search_options": {}}, "'web_search'", 1),
        ({"tools": [{"type": "web_search_preview"}]}, "'web_search'", 1),
        ({"tools": [FUNCTION, {"type": "web_search_2025_08_26"}]}, "'web_search'", 1),
        ({"tools": [{"type": "file_search"}, {"type": "mcp"}]}, "'file_search'", 2),
        ({"tools": [{"type": "code_interpreter", "container": {}}]}, "'code_interpreter'", 1),
        ({"tools": [{"type": "image_generation"}]}, "'image_generation'", 1),
        ({"tools": [{"type": "brand_new"}]}, "one of the tools", 1),
        ({"tools": [{"type": 1}]}, "one of the tools", 1),
        ({"tools": "web_search"}, "one of the tools", 1),
        ({"audio": {"voice": "alloy"}, "modalities": ["text", "audio"]}, "'audio'", 0),
        ({"modalities": ["audio"]}, "'modalities'", 0),
    ],
)
def test_what_costs_more_is_named(members: dict[str, Any], named: str, kinds: int) -> None:
    for operation in (CHAT, RESPONSES):
        read = read_request(body(**members), operation)
        assert named in read.unpriced
        assert read.unseen_input == kinds * RESULT_TOKENS
        assert "brand_new" not in read.unpriced


def test_a_server_of_tools_has_no_fee_and_brings_in_content() -> None:
    read = read_request(body(tools=[{"type": "mcp", "server_url": "https://x.test"}]), RESPONSES)
    assert (read.unpriced, read.unseen_input) == ("", RESULT_TOKENS)


def test_escapes_hide_nothing() -> None:
    data = b'{"model": "gpt", "service\\u005ftier": "priorit\\u0079"}'
    assert "'service_tier'" in read_request(data, CHAT).unpriced
    data = b'{"model": "gpt", "tools": [{"typ\\u0065": "web\\u005fsearch"}]}'
    assert "'web_search'" in read_request(data, RESPONSES).unpriced


@pytest.mark.parametrize("name", ["service_tier", "tools", "web_search_options", "audio"])
def test_what_decides_the_price_may_not_stand_twice(name: str) -> None:
    data = f'{{"model": "gpt", "{name}": null, "{name}": null}}'.encode()
    with pytest.raises(OpusLiveError) as raised:
        read_request(data, CHAT)
    assert (raised.value.code, name in raised.value.message) == (Code.INVALID_REQUEST, True)
