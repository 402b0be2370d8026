"""How large a request is: text by its bytes, images and documents by their kind, where they stand.

To this kind belongs whatever the protocol lets stand in ``messages`` and ``system``: a block of
each type that has a source, with each type of source, in a message, in the result of a tool, in a
document that is made of blocks; with names in any spelling and members in any order; and whatever
only looks like one: the input of a tool, a text, a schema, another member of the body, a result
that a provider's tool brought. Base64 has many forms that all mean an image: ``/`` with escapes,
broken lines, the alphabet for URLs.
"""

from __future__ import annotations

import base64
import itertools
import json
import mmap
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects import Buffer, InputGuess
from opuslive.dialects.anthropic.content import (
    CONTEXT_TOKENS,
    DOCUMENT_TOKENS,
    IMAGE_TOKENS,
    input_guess,
)
from opuslive.dialects.anthropic.relayed import BYTES_PER_TOKEN
from opuslive.dialects.anthropic.surcharges import RESULT_TOKENS
from opuslive.dialects.body import MAX_OBJECTS
from tests.support.documents import page


def in_mmap(body: bytes) -> Buffer:
    memory = mmap.mmap(-1, len(body))
    memory[:] = body
    return memoryview(memory)


def in_a_slice(body: bytes) -> Buffer:
    return memoryview(b'{"x": ' + body + b"}")[6:-1]


KINDS: list[Callable[[bytes], Buffer]] = [bytearray, memoryview, in_mmap, in_a_slice]

DATA = base64.b64encode(bytes(range(256)) * 12).decode()
MEGABYTE = "All work and no play makes Jack a dull boy. " * 23_000


def base64_source(data: str = DATA, media_type: str = "image/png") -> dict[str, str]:
    return {"type": "base64", "media_type": media_type, "data": data}


def image(data: str = DATA) -> dict[str, Any]:
    return {"type": "image", "source": base64_source(data)}


def pdf(data: str = DATA) -> dict[str, Any]:
    return {"type": "document", "source": base64_source(data, "application/pdf")}


def sourced(block: str, source: str, **members: Any) -> dict[str, Any]:
    return {"type": block, "source": {"type": source, **members}}


URL = {"url": "https://example.com/a"}
FILE = {"file_id": "file_011CNha8iCJcU1wXNR6q4V8w"}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def result(*content: object) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}


def made_of(*content: object) -> dict[str, Any]:
    return sourced("document", "content", content=content)


def body_of(*content: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


def as_text(body: bytes, left_out: int = 0) -> int:
    return (len(body) - left_out) // BYTES_PER_TOKEN


WHERE = pytest.mark.parametrize(
    "where",
    [
        pytest.param(lambda block: block, id="in a message"),
        pytest.param(result, id="in the result of a tool"),
        pytest.param(lambda block: made_of(block), id="in a document made of blocks"),
        pytest.param(lambda block: result(made_of(block)), id="in such a document in a result"),
    ],
)


@WHERE
def test_the_base64_of_an_image_is_no_text(where: Any) -> None:
    body = body_of(text("Look"), where(image()), where(image("A" * 100_000)))
    left_out = len(DATA) + 100_000 + 4
    assert input_guess(body) == InputGuess(as_text(body, left_out) + 2 * IMAGE_TOKENS)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        (4_000, DOCUMENT_TOKENS),
        (40_000, DOCUMENT_TOKENS),
        (400_000, 100_000),
        (20_000_000, CONTEXT_TOKENS),
    ],
)
@WHERE
def test_a_pdf_counts_by_its_size(where: Any, size: int, tokens: int) -> None:
    body = body_of(where(pdf("A" * size)))
    seen = input_guess(body).seen
    assert tokens <= seen <= tokens + 150


@pytest.mark.parametrize(
    ("block", "unseen"),
    [
        (sourced("document", "url", **URL), CONTEXT_TOKENS),
        (sourced("document", "file", **FILE), CONTEXT_TOKENS),
        (sourced("document", "nobody_knows"), CONTEXT_TOKENS),
        ({"type": "container_upload", **FILE}, CONTEXT_TOKENS),
        (sourced("image", "url", **URL), IMAGE_TOKENS),
        (sourced("image", "file", **FILE), IMAGE_TOKENS),
        (sourced("image", "nobody_knows"), IMAGE_TOKENS),
        ({"type": "document", "source": {}}, CONTEXT_TOKENS),
    ],
)
@WHERE
def test_what_the_provider_fetches_counts_as_the_largest(
    where: Any, block: dict[str, Any], unseen: int
) -> None:
    body = body_of(text("Read this"), where(block))
    seen = as_text(body)
    assert input_guess(body) == InputGuess(seen, min(unseen, CONTEXT_TOKENS - seen))


def test_a_request_has_no_more_input_than_the_largest_context() -> None:
    documents = [sourced("document", "url", **URL)] * 40
    guess = input_guess(body_of(*documents))
    assert guess.seen + guess.unseen == CONTEXT_TOKENS
    images = [sourced("image", "url", **URL)] * 600
    guess = input_guess(body_of(*images))
    assert guess.seen + guess.unseen == CONTEXT_TOKENS
    assert input_guess(body_of(documents[0], text("x" * 5_000_000))).unseen == 0


def test_a_source_in_the_system_prompt_counts() -> None:
    body = json.dumps({"system": [image(), sourced("document", "url", **URL)]}).encode()
    guess = input_guess(body)
    assert guess.seen == as_text(body, len(DATA) + 2) + IMAGE_TOKENS
    assert guess.seen + guess.unseen == CONTEXT_TOKENS


def test_no_spelling_hides_a_source() -> None:
    """Nor does the order of the members, or white space."""
    body = (
        b'{"m\\u0065ssages" : [ {"content":\n[ { "s\\u006furce":{"url" : "x",'
        b'"t\\u0079pe":"\\u0075rl"},"type" :\t"docum\\u0065nt"} ] , "role":"user"} ] }'
    )
    assert input_guess(body).unseen == CONTEXT_TOKENS - as_text(body)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "name": "f", "input": {"data": MEGABYTE}},
        {"type": "tool_use", "name": "f", "input": image(MEGABYTE)},
        {"type": "tool_use", "name": "f", "input": {"content": [image(MEGABYTE)]}},
        {"type": "tool_use", "name": "f", "input": {}, "content": [image(MEGABYTE)]},
        {"type": "tool_use", "name": "f", "input": sourced("document", "url", url=MEGABYTE)},
        {"type": "server_tool_use", "name": "f", "input": {"source": base64_source(MEGABYTE)}},
        {"type": "text", "text": "x", "source": base64_source(MEGABYTE)},
        {"type": "web_fetch_tool_result", "content": {"content": pdf(MEGABYTE)}},
        {"type": "mcp_tool_result", "content": [image(MEGABYTE)]},
        {"type": "redacted_thinking", "data": "A" * 1_000_000},
        {"type": "thinking", "thinking": "", "signature": "A" * 1_000_000},
        text(json.dumps(image(MEGABYTE))),
        text('"},"source":{"type":"url"' + MEGABYTE),
        result(text(json.dumps(sourced("document", "url", **URL)) + MEGABYTE)),
        sourced("document", "text", data=MEGABYTE, media_type="text/plain"),
        sourced("document", "content", content=MEGABYTE),
        {"type": "search_result", "source": "https://a", "content": [text(MEGABYTE)]},
        {"type": "nobody_knows", "data": MEGABYTE},
    ],
)
def test_all_else_is_text(block: dict[str, Any]) -> None:
    body = body_of(block)
    assert input_guess(body) == InputGuess(as_text(body))
    assert as_text(body) > 200_000


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [{"name": "f", "input_schema": {"source": base64_source(MEGABYTE)}}]},
        {"tools": [{"name": "f", "input_examples": [sourced("document", "url", **URL)]}]},
        {"metadata": {"content": [image(MEGABYTE)]}},
        {"data": MEGABYTE},
        {"content": [image(MEGABYTE)]},
        {"image": f"data:image/png;base64,{DATA}"},
        {"system": MEGABYTE, "messages": []},
    ],
)
def test_images_stand_nowhere_else(members: dict[str, Any]) -> None:
    body = json.dumps(members).encode()
    assert input_guess(body) == InputGuess(as_text(body))


#: A JPEG, whose base64 begins with "/9j/", and has "+".
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40 + b"\xfb\xef\xbe").decode()


def lines(data: str, end: str, *, last: bool = False) -> str:
    return end.join(re.findall(".{1,76}", data)) + (end if last else "")


#: How JSON may write base64: from the base64 to what stands between the quotes.
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda data: data,
    "escaped slashes": lambda data: data.replace("/", "\\/"),
    "all by number": lambda data: data.replace("/", "\\u002F").replace("+", "\\u002B"),
    "for URLs": lambda data: data.replace("/", "_").replace("+", "-").rstrip("="),
    "lines": lambda data: lines(data, "\\n"),
    "lines by number": lambda data: lines(data, "\\u000d\\u000a", last=True),
}
ORDERS = list(itertools.permutations(("type", "media_type", "data")))


@pytest.mark.parametrize("form", FORMS)
def test_base64_is_no_text_in_whatever_form_json_writes_it(form: str) -> None:
    written = FORMS[form](JPEG)
    for order, colon in itertools.product(ORDERS, [":", ": ", " \n\t: \r\n"]):
        members = {"type": '"base64"', "media_type": '"image\\/jpeg"', "data": f'"{written}"'}
        source = ",".join(f'"{name}"{colon}{members[name]}' for name in order)
        block = f'{{"type":"image","source":{{{source}}}}}'
        body = f'{{"messages":[{{"role":"user","content":[{block}]}}]}}'.encode()
        assert input_guess(body) == InputGuess(as_text(body, len(written) + 2) + IMAGE_TOKENS)
        assert json.loads(body)


UNREADABLE = [
    b'{"messages":[0]}',
    b'{"messages":{}}',
    b'{"messages":[{"content":[5]}]}',
    b'{"messages":[{"content":[{"type":7}]}]}',
    b'{"messages":[{"content":[{"type":"image"}]}]}',
    b'{"messages":[{"content":[{"type":"image","source":"x"}]}]}',
    b'{"messages":[{"content":[{"type":"image","source":[1]}]}]}',
    b'{"messages":[{"content":[{"type":"\xff"}]}]}',
    body_of(result(result(result(result(result(image())))))),
    b'{"messages":' + b"[" * 100_000,
    b"",
    b"{",
]


@pytest.mark.parametrize("body", UNREADABLE)
def test_what_can_not_be_read_is_text_and_may_be_as_large_as_can_be(body: bytes) -> None:
    seen = as_text(body)
    assert input_guess(body) == InputGuess(seen, CONTEXT_TOKENS - seen)


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"messages":[' + b"{}," * 1_400_000 + b"{}]}",
        b'{"messages":[{"content":[' + b"{}," * 1_400_000 + b"{}]}]}",
        b'{"messages":[{"content":"' + b"{" * 4_000_000 + b'"}]}',
    ],
)
def test_more_objects_than_are_read_count_as_text(hostile: bytes) -> None:
    assert hostile.count(b"{") > MAX_OBJECTS
    for body in (hostile, in_mmap(hostile)):
        seen = as_text(hostile)
        assert input_guess(body) == InputGuess(seen, max(0, CONTEXT_TOKENS - seen))


@pytest.mark.parametrize("kind", [bytes, in_mmap])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param([image("A" * 30_000_000)], id="an image"),
        pytest.param([image("A" * 300_000)] * 100, id="images"),
        pytest.param([text("x" * 30_000_000)], id="a text"),
        pytest.param([text("x" * 3_000)] * 10_000, id="texts"),
    ],
)
def test_thirty_megabytes_cost_no_decoding(content: Any, kind: Any) -> None:
    body = kind(body_of(*content))
    began = time.process_time()
    input_guess(body)
    assert time.process_time() - began < 0.3  # some 30 ms, on a machine with nothing else to do


_blocks = st.recursive(
    st.sampled_from(
        [text("x"), image(), pdf(), sourced("document", "url", **URL), {"type": "x"}, {}]
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda blocks: result(*blocks)),
    max_leaves=6,
)


@given(st.lists(_blocks, max_size=4))
def test_it_does_not_matter_where_the_body_is(blocks: list[Any]) -> None:
    body = body_of(*blocks)
    guess = input_guess(body)
    assert guess.seen >= 0 <= guess.unseen
    for kind in KINDS:
        assert input_guess(kind(body)) == guess


def test_the_page_of_limits_tells_these_figures() -> None:
    limits = page("limits")
    for figure in (IMAGE_TOKENS, DOCUMENT_TOKENS, CONTEXT_TOKENS, RESULT_TOKENS):
        assert f" {figure:,}" in limits.replace("\n", " ")
