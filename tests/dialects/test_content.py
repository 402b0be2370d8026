"""How large a request is: text by its bytes, images and documents by their number.

Base64 has many forms that all mean an image: ``/`` and ``+`` with escapes of either kind, lines
broken by either end of line, the alphabet for URLs, with padding or without, a ``data:`` URL whose
media type has escapes too; and the members around it stand in any order, with white space anywhere.
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

from opuslive.dialects import Buffer
from opuslive.dialects.anthropic.dialect import DOCUMENT_TOKENS, IMAGE_TOKENS, AnthropicDialect
from opuslive.dialects.content import ContentSize, content_size


def in_mmap(body: bytes) -> Buffer:
    memory = mmap.mmap(-1, len(body))
    memory[:] = body
    return memoryview(memory)


def in_a_slice(body: bytes) -> Buffer:
    return memoryview(b'{"data": "' + body + b'"data"')[10:-6]


KINDS: list[Callable[[bytes], Buffer]] = [bytearray, memoryview, in_mmap, in_a_slice]

DATA = base64.b64encode(bytes(range(256)) * 12).decode()


def source(media_type: str, data: str = DATA) -> dict[str, str]:
    return {"type": "base64", "media_type": media_type, "data": data}


def image(data: str = DATA) -> dict[str, Any]:
    return {"type": "image", "source": source("image/png", data)}


def document() -> dict[str, Any]:
    return {"type": "document", "source": source("application/pdf")}


def body_of(*content: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


def test_text_counts_as_it_stands() -> None:
    body = body_of({"type": "text", "text": 'what\'s in "data": "' + DATA})
    assert content_size(body) == ContentSize(len(body))


def test_images_and_documents_are_counted_and_their_bytes_left_out() -> None:
    pieces = (image(), document(), {"type": "text", "text": "and this"}, image(), image())
    body = body_of(*pieces)
    assert content_size(body) == ContentSize(len(body) - 4 * len(DATA), images=3, documents=1)
    guess = AnthropicDialect().input_guess(body)
    assert 3 * IMAGE_TOKENS + DOCUMENT_TOKENS < guess < 3 * IMAGE_TOKENS + DOCUMENT_TOKENS + 300


@pytest.mark.parametrize("size", [10_000, 10_000_000])
def test_the_size_of_an_image_is_not_that_of_its_bytes(size: int) -> None:
    body = body_of(image("A" * size))
    assert content_size(body) == ContentSize(len(body) - size, images=1)


def test_members_may_stand_in_any_order_and_with_any_white_space() -> None:
    pdf = {"data": DATA, "media_type": "application/pdf", "type": "base64"}
    body = json.dumps({"source": pdf}, indent=8, separators=(" , ", " \n:\t ")).encode()
    assert content_size(body) == ContentSize(len(body) - len(DATA), documents=1)


#: A JPEG, whose base64 begins with "/9j/", and has "+".
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40 + b"\xfb\xef\xbe").decode()
PDF = base64.b64encode(b"%PDF-1.7\n" + bytes(range(256)) * 40).decode()


def lines(data: str, end: str, *, last: bool = False) -> str:
    return end.join(re.findall(".{1,76}", data)) + (end if last else "")


#: How JSON may write base64: from the base64 to what stands between the quotes.
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda data: data,
    "escaped slashes": lambda data: data.replace("/", "\\/"),
    "slashes by number": lambda data: data.replace("/", "\\u002f"),
    "slashes by number in capitals": lambda data: data.replace("/", "\\u002F"),
    "pluses by number": lambda data: data.replace("+", "\\u002b"),
    "padding by number": lambda data: data.replace("=", "\\u003d"),
    "all by number": lambda data: data.replace("/", "\\u002F").replace("+", "\\u002B"),
    "without padding": lambda data: data.rstrip("="),
    "for URLs": lambda data: data.replace("/", "_").replace("+", "-"),
    "lines": lambda data: lines(data, "\\n"),
    "lines of Windows": lambda data: lines(data, "\\r\\n", last=True),
    "lines by number": lambda data: lines(data, "\\u000d\\u000a", last=True),
    "lines and slashes": lambda data: lines(data, "\\n").replace("/", "\\/"),
    "an URL": lambda data: f"data:image/jpeg;base64,{data}",
    "an URL by PHP": lambda data: f"data:image/jpeg;base64,{data}".replace("/", "\\/"),
}
MEDIA = {"image": (JPEG, "image/jpeg", 1, 0), "document": (PDF, "application/pdf", 0, 1)}
ORDERS = list(itertools.permutations(("type", "media_type", "data")))


@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("form", FORMS)
def test_base64_is_no_text_in_whatever_form_json_writes_it(form: str, kind: str) -> None:
    data, media_type, images, documents = MEDIA[kind]
    written = FORMS[form](data)
    for order, colon in itertools.product(ORDERS, [":", ": ", " \n\t: \r\n"]):
        members = {
            "type": '"base64"',
            "media_type": json.dumps(media_type).replace("/", "\\/"),
            "data": f'"{written}"',
        }
        source = ",".join(f'"{name}"{colon}{members[name]}' for name in order)
        body = f'{{"content":[{{"type":"{kind}","source":{{{source}}}}}]}}'.encode()
        size = content_size(body)
        assert (size.images, size.documents) == (images, documents)
        assert len(body) - len(written) <= size.text_bytes < len(body) - len(written) + 40
        assert json.loads(body)["content"][0]["type"] == kind


@pytest.mark.parametrize("kind", MEDIA)
def test_a_url_with_data_is_no_text_under_any_name(kind: str) -> None:
    data, media_type, images, documents = MEDIA[kind]
    body = json.dumps({"url": f"data:{media_type};name=a;base64,{data}"}).encode()
    size = content_size(body)
    assert (size.images, size.documents) == (images, documents)
    assert size.text_bytes < 100


def test_a_pdf_is_known_by_its_first_bytes_where_its_type_is_far_away() -> None:
    source = {"data": PDF, "title": "x" * 500, "media_type": "application/pdf"}
    assert content_size(json.dumps(source).encode()).documents == 1


@pytest.mark.parametrize("form", FORMS)
def test_thirty_megabytes_cost_no_decoding(form: str) -> None:
    data = FORMS[form](JPEG * 2_000)
    body = b'{"data":"' + data.encode() + b'"}'
    began = time.process_time()
    size = content_size(body)
    assert time.process_time() - began < 0.2  # some 20 ms, on a machine with nothing else to do
    assert size.images == 1


@pytest.mark.parametrize(
    "value",
    [
        "A" * 500,  # too short for an image
        "Dear Sir, " * 100,
        "A" * 100 + " is followed by text" * 100,
        "A" * 600 + "!",
        "data:text/plain,Dear Sir, " + "yours " * 100,
        "\u4f60\u597d" * 500,
        ["A" * 1000],
        {"A" * 1000: 1},
        None,
        17,
    ],
)
def test_other_data_is_text(value: object) -> None:
    body = body_of({"type": "tool_use", "input": {"data": value}})
    assert content_size(body) == ContentSize(len(body))


@pytest.mark.parametrize(
    "body", [b"", b'"data"', b'"data":', b'"data":"', b'{"data":"' + b"A" * 999]
)
def test_what_breaks_off_is_text(body: bytes) -> None:
    assert content_size(body) == ContentSize(len(body))


@pytest.mark.parametrize(
    "hostile",
    [
        b'"data",' * 500_000,
        b'"data":"",' * 400_000,
        (b'"data":"' + b"A" * 64 + b'",') * 40_000,
        (b'"data":"' + b"A" * 511 + b'",') * 8_000,
        (b'"data":"' + b"A" * 600 + b'!",') * 7_000,
        (b'"data:' + b"a" * 151 + b'",') * 25_000,
        b'"data":' + b" " * 4_000_000,
        (b'"data"' + b" " * 2_000) * 2_000,
        b'"data":"' + b"A" * 4_000_000,
        b'"dat' * 1_000_000,
        b'"' * 4_000_000,
    ],
)
def test_hostile_bodies_are_text(hostile: bytes) -> None:
    """They cost no more than large ones, and count in full."""
    assert content_size(hostile) == ContentSize(len(hostile))


def test_more_pieces_than_any_provider_takes_count_as_text() -> None:
    body = body_of(*(image() for _ in range(1_500)))
    assert content_size(body) == ContentSize(len(body) - 1_000 * len(DATA), images=1_000)


_pieces = st.lists(
    st.sampled_from(
        [
            b'"data"',
            b":",
            b" ",
            b'"',
            b"A" * 600,
            b"=",
            b"\\",
            b"\\/",
            b"\\n",
            b"data:",
            b";base64,",
            b"application/pdf",
            b"{",
            b"\xff",
        ]
    ),
    max_size=30,
).map(b"".join)


@given(_pieces)
def test_it_does_not_matter_where_the_body_is(body: bytes) -> None:
    size = content_size(body)
    assert 0 <= size.text_bytes <= len(body)
    assert (size.text_bytes == len(body)) is (size.images + size.documents == 0)
    for kind in KINDS:
        if body or kind is not in_mmap:  # no mmap is empty
            assert content_size(kind(body)) == size
