"""What a client names its conversation by, in each dialect."""

from __future__ import annotations

import json
import mmap

import pytest

from opuslive.dialects import RawHeaders, registry
from opuslive.dialects.conversations import MAX_NAME

SESSION = "4f0c8a52-6d1e-4b8e-9a43-0d7c3f1f2b11"
HEADER = [(b"X-Claude-Code-Session-Id", SESSION.encode())]


def anthropic(user_id: object, headers: RawHeaders = ()) -> bytes | None:
    body = json.dumps({"model": "m", "metadata": {"user_id": user_id}, "messages": []}).encode()
    return registry.DIALECTS["anthropic"].conversation(headers, body)


def openai(**members: object) -> bytes | None:
    body = json.dumps({"model": "m", **members}).encode()
    return registry.DIALECTS["openai"].conversation(HEADER, body)


def test_claude_code_names_it_in_a_header() -> None:
    assert anthropic(None, HEADER) == SESSION.encode()
    assert anthropic(json.dumps({"session_id": "other"}), HEADER) == SESSION.encode()


@pytest.mark.parametrize(
    "user_id",
    [
        json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": SESSION}),
        f"user_{'0f' * 32}_account__session_{SESSION}",
        f"user_{'0f' * 32}_account_8d0c_session_{SESSION}",
    ],
)
def test_claude_code_names_it_in_the_user_id(user_id: str) -> None:
    assert anthropic(user_id) == SESSION.encode()


@pytest.mark.parametrize(
    "user_id",
    [
        "a-user-of-somebody",
        "",
        None,
        7,
        {"session_id": SESSION},
        json.dumps({"session_id": 7}),
        json.dumps({"session_id": ""}),
        json.dumps([SESSION]),
        "user_1_account__session_",
        json.dumps({"session_id": "x" * MAX_NAME}),
    ],
)
def test_a_user_id_that_names_no_session_names_no_conversation(user_id: object) -> None:
    assert anthropic(user_id) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b'{"model":"m","metadata":null}',
        b'{"model":"m","metadata":[1]}',
        b'{"model":"m","metadata":"user_id"}',
        b'{"model":"m","metadata":{"user_id":"\\ud800"}}',
        b'{"model":"m","metadata":{"user_id":"{\\"session_id\\":\\"\\\\ud800\\"}"}}',
        b'{"model":"m","metadata":{%s}}' % b",".join(b'"%d":1' % i for i in range(2_000)),
    ],
)
def test_any_other_metadata_names_no_conversation(body: bytes) -> None:
    assert registry.DIALECTS["anthropic"].conversation((), body) is None


def test_white_space_around_a_body_does_not_hide_it() -> None:
    body = b' \n{ "model":"m" , "metadata" : { "user_id" : "x_session_y" } }'
    assert registry.DIALECTS["anthropic"].conversation((), memoryview(body)) == b"y"


def test_a_body_in_an_mmap_is_searched_too() -> None:
    body = b'{"model":"m","prompt_cache_key":"k"}'
    with mmap.mmap(-1, len(body) + 10) as memory:
        memory[: len(body)] = body
        for size in (len(body), len(body) + 10):
            memory[len(body) :] = b" " * 10
            with memoryview(memory) as whole, whole[:size] as view:
                assert registry.DIALECTS["openai"].conversation((), view) == b"k"


def test_openai_names_it_in_the_key_of_its_cache() -> None:
    assert openai(prompt_cache_key="some key, \u00e4") == "some key, \u00e4".encode()
    assert openai() is openai(prompt_cache_key="") is openai(prompt_cache_key=7) is None
    assert openai(prompt_cache_key="x" * MAX_NAME) is None
