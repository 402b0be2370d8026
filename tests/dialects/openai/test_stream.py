"""Usage in OpenAI's event streams, and what of them the client sees.

The kinds: how the bytes are split; how servers spell and order what they write (spaces, line ends,
the place of ``usage``, padding behind it); content that imitates usage or an end, at each place
where a holder can put something; ends of every sort, up to 16 MB; what is not told at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects import RequestMembers
from opuslive.dialects.openai.events import MAX_LAST
from opuslive.dialects.sse import MAX_EVENT
from opuslive.usage import TokenCounts
from tests.support.event_streams import pieces
from tests.support.openai_streams import (
    ASKING,
    DONE,
    HIDING,
    Data,
    Passage,
    chunk,
    content,
    cuts,
    delta,
    event,
    harmless,
    harmless_of_response,
    joined,
    response,
    response_usage,
    usage,
)

ends = st.sampled_from(["\n", "\r\n", "\r"])
amounts = st.integers(1, 10**6)


def splits(data: bytes, where: Sequence[int]) -> list[list[bytes]]:
    return [[data], pieces(data, where), pieces(data, range(len(data)))]


@given(st.lists(harmless, max_size=6), amounts, amounts, cuts, ends, st.booleans())
def test_splits_and_content_change_nothing_of_a_completion(
    events: list[Data], prompt: int, completion: int, where: list[int], end: str, tight: bool
) -> None:
    style: dict[str, Any] = {"end": end, "tight": tight}
    shown = joined(events, **style)
    done = event("[DONE]", end=end)
    asked = [*[{**each, "usage": None} for each in events], chunk(usage=usage(prompt, completion))]
    for data, request in ((shown + joined(asked[-1:], **style) + done, ASKING),
                          (joined(asked, **style) + done, HIDING)):  # fmt: skip
        for chunks in splits(data, where):
            passage = Passage(request).feed(*chunks)
            assert passage.meter.finished
            assert not passage.meter.failed
            assert passage.meter.output_told
            assert passage.meter.counts() == TokenCounts(prompt, completion)
            assert b"[DONE]\n\n" not in passage.seen.replace(b"\r", b"")[len(shown) :]
            expected = data if request is ASKING else shown + done
            assert passage.all() == expected


@given(st.lists(harmless_of_response, max_size=6), amounts, amounts, cuts, ends, st.booleans())
def test_splits_and_content_change_nothing_of_a_response(
    events: list[Data], prompt: int, output: int, where: list[int], end: str, tight: bool
) -> None:
    style: dict[str, Any] = {"end": end, "tight": tight}
    before = joined(events, **style)
    last = event(response("completed", usage=response_usage(prompt, output)), **style)
    for chunks in splits(before + last, where):
        passage = Passage().feed(*chunks)
        assert passage.meter.finished
        assert passage.meter.counts() == TokenCounts(prompt, output)
        # Nothing of the last event goes before it is released, nor is anything changed.
        assert passage.seen.rstrip(b"\r\n") == before.rstrip(b"\r\n")
        assert passage.all() == before + last


@given(
    st.lists(harmless | harmless_of_response, max_size=5), cuts, st.integers(0, 3000), st.booleans()
)
def test_splits_do_not_matter_to_what_is_estimated(
    events: list[Data], where: list[int], length: int, hiding: bool
) -> None:
    data = joined(events)[:length]
    passages = [
        Passage(HIDING if hiding else ASKING).feed(*chunks) for chunks in splits(data, where)
    ]
    assert len({str(passage.meter.counts()) for passage in passages}) == 1
    assert not any(passage.meter.end() for passage in passages)


# What the client did not ask for is hidden


PLAIN = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]%b}\n\n'


@pytest.mark.parametrize(
    "member",
    [b',"usage":null', b', "usage": null', b',\t"usage" :null'],
)
@pytest.mark.parametrize(
    "behind", [b"", b',"obfuscation":"a8Zq"', b',"x":{"usage":null}', b', "z": "usage"']
)
def test_usage_that_is_null_is_cut_out_and_nothing_else(member: bytes, behind: bytes) -> None:
    assert Passage(HIDING).feed(PLAIN % (member + behind)).seen == PLAIN % behind
    asked = PLAIN % (member + behind)
    assert Passage(ASKING).feed(asked).seen == asked


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b'{"usage":null,"choices":[]}', b'{"choices":[]}'),
        (b'{"usage":null , "choices":[]}', b'{ "choices":[]}'),
        (b'{"usage":null}', b"{}"),
        (b'{ "choices":[] , "usage" : null }', b'{ "choices":[]  }'),
        (b'{"choices":[],"x":{"usage":null}}', b'{"choices":[],"x":{"usage":null}}'),
        (
            b'{"choices":[],"a":"\\ud800","usage":null}',
            b'{"choices":[],"a":"\\ud800"}',
        ),
    ],
)
def test_the_member_is_cut_out_wherever_it_stands(sent: bytes, shown: bytes) -> None:
    assert Passage(HIDING).feed(b"data: " + sent + b"\n\n").seen == b"data: " + shown + b"\n\n"


def test_the_chunk_with_the_usage_is_dropped_if_only_the_gateway_asked() -> None:
    told = event(chunk(usage=usage()))
    assert Passage(HIDING).feed(told).seen == b""
    assert Passage(ASKING).feed(told).seen == told


def test_a_line_end_that_comes_late_stays_with_its_event() -> None:
    before = event(content("a"), end="\r\n")
    told = event(chunk(usage=usage()), end="\r\n")
    done = event("[DONE]", end="\r\n")
    for first in range(len(before) - 4, len(before) + 2):
        for second in range(len(before + told) - 4, len(before + told) + 2):
            chunks = pieces(before + told + done, (first, second))
            assert Passage(HIDING).feed(*chunks).all() == before + done


def test_usage_beside_choices_is_the_servers_own_way_and_stays() -> None:
    told = event(content("a", usage=usage()))
    passage = Passage(HIDING).feed(told)
    assert passage.seen == told
    assert passage.meter.counts() == TokenCounts(11, 7)


def test_a_chunk_without_choices_or_usage_stays() -> None:
    """As Azure begins a stream, with what its filters found in the prompt."""
    filtered = chunk(prompt_filter_results=[])
    passage = Passage(HIDING).feed(event({**filtered, "usage": None}))
    assert passage.seen == event(filtered)


# What tells usage, and what ends a stream


def test_pings_and_line_ends_go_on_at_once() -> None:
    for request in (HIDING, ASKING):
        for ping in (b": OPENROUTER PROCESSING\n\n", b"\n", b":\n\n"):
            passage = Passage(request).feed(event(content("a")), ping)
            assert passage.seen.endswith(ping)


@pytest.mark.parametrize(
    "told",
    [
        [content("a"), chunk(usage=usage())],
        [content("a", usage=usage())],
        [content("a", usage=usage(11, 1)), content("b", usage=usage(11, 7))],
        [content("a"), chunk({}, usage=usage()), chunk(usage={"prompt_tokens": 0})],
    ],
)
def test_servers_tell_usage_in_their_own_ways(told: list[Data]) -> None:
    for request in (HIDING, ASKING):
        passage = Passage(request).feed(joined(told), DONE)
        assert passage.meter.counts() == TokenCounts(11, 7)
        assert passage.meter.input_told
        assert passage.meter.output_told


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
@pytest.mark.parametrize("form", ["named", "unnamed", "late type", "spaced", "two lines", "half"])
def test_a_response_ends_in_any_form(kind: str, form: str) -> None:
    told = response(kind, usage=response_usage(), output=[{"text": "é"}])
    if form == "unnamed":
        last = event(told, name="")
    elif form == "late type":
        last = event({"response": told["response"], "type": told["type"]}, name="")
    elif form == "half":
        last = event(told).replace(b'"id":"r"', b'"id":"\\ud800"')
    elif form == "two lines":
        last = event(told).replace(b',"response"', b',\ndata: "response"')
    else:
        last = event(told, tight=form != "spaced")
    passage = Passage().feed(event(delta("Hello")), last)
    assert passage.meter.finished
    assert passage.meter.counts() == TokenCounts(11, 7)
    assert passage.seen == event(delta("Hello"))


def test_clients_and_meter_go_by_the_type_of_an_event_and_not_by_its_name() -> None:
    told = response("completed", usage=response_usage())
    passage = Passage().feed(event(response("created"), name=told["type"]))
    assert not passage.meter.finished
    assert passage.feed(event(told, name="response.created")).meter.finished


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (None, True),
        ({"code": "server_error", "message": "invalid_"}, True),
        ({"code": "rate_limit_exceeded"}, True),
        ({"code": "invalid_prompt"}, False),
        ({"code": "image_too_large"}, False),
        ({"code": "invalid_api_key"}, True),
        ({"message": "code"}, True),
    ],
)
def test_a_response_that_failed_by_its_request_is_no_failure_of_the_provider(
    error: Data | None, failed: bool
) -> None:
    last = response("failed", error=error, usage=response_usage())
    passage = Passage().feed(event(last))
    assert passage.meter.finished
    assert passage.meter.failed is failed


@pytest.mark.parametrize(
    "last",
    [
        event({"error": {"message": "overloaded", "code": 502}}),
        event(content("", error={"code": 502})),
        event({"type": "error", "code": "server_error", "message": "x"}),
        b"event: error\ndata: oops\n\n",
        b"event: error\n\n",
    ],
)
def test_an_error_ends_the_stream(last: bytes) -> None:
    passage = Passage().feed(event(content("x" * 400)), last)
    assert passage.meter.finished
    assert passage.meter.failed
    assert passage.seen == event(content("x" * 400))
    assert passage.meter.counts() == TokenCounts(0, 100)
    assert passage.all().endswith(last)


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        ({"code": 502}, True),
        ({"code": 429}, True),
        ({"code": 401, "type": "Unauthorized"}, True),
        ({"code": 400, "message": "too long"}, False),
        ({"code": "400"}, False),
        ({"type": "invalid_request_error"}, False),
        ({"type": "BadRequestError", "code": None}, False),
        ({"message": "invalid_request_error"}, True),
        ("4000", True),
    ],
)
def test_an_error_that_the_request_caused_is_no_failure_of_the_provider(
    error: Any, failed: bool
) -> None:
    for last in (event({"error": error}), event({"type": "error", "error": error})):
        passage = Passage().feed(event(content("a")), last)
        assert passage.meter.finished
        assert passage.meter.failed is failed


@pytest.mark.parametrize("error", [None, False, {}, ""])
def test_an_error_that_is_none_ends_nothing(error: object) -> None:
    assert not Passage().feed(event(content("a", error=error))).meter.finished


def test_a_model_that_took_the_place_of_another_is_named() -> None:
    request = RequestMembers("gpt", other_models=("gpt", "claude"))
    for model, named in (("gpt", None), ("claude", "claude"), ("anything", None)):
        told = chunk(usage=usage(), model=model)
        assert Passage(request).feed(event(told)).meter.model == named


# Large events


@pytest.mark.parametrize("size", [MAX_EVENT - 100, MAX_EVENT + 100, 8 << 20])
@pytest.mark.parametrize("step", [65_536, 1 << 25])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_end_of_a_response_counts_whatever_it_repeats(size: int, step: int, end: str) -> None:
    started = event(response("created", instructions="x" * size), end=end)
    last = event(response("completed", instructions="x" * size, usage=response_usage()), end=end)
    passage = Passage()
    for at in range(0, len(started), step):
        passage.feed(started[at : at + step])
        assert passage.meter.held <= MAX_EVENT + step
    assert passage.seen == started
    for at in range(0, len(last), step):
        passage.feed(last[at : at + step])
    assert passage.meter.finished
    assert passage.meter.held == len(last)
    assert passage.seen == started
    assert passage.meter.counts() == TokenCounts(11, 7)
    assert passage.all() == started + last


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("step", [1 << 20, 1 << 25])
def test_beyond_the_bound_the_end_is_still_one_and_is_estimated(extra: int, step: int) -> None:
    bare = len(event(response("completed", pad="", usage=response_usage()))) - 2
    pad = "x" * (MAX_LAST + extra - bare)
    last = event(response("completed", pad=pad, usage=response_usage()))
    passage = Passage().feed(event(delta("x" * 400)))
    for at in range(0, len(last), step):
        passage.feed(last[at : at + step])
    assert passage.meter.finished
    assert not passage.seen.endswith(last[-100:])
    assert passage.meter.output_told is (extra <= 0)
    assert passage.meter.counts() == (TokenCounts(11, 7) if extra <= 0 else TokenCounts(0, 100))


def test_a_large_chunk_of_a_completion_passes_and_counts_as_text() -> None:
    large = event(content("x" * (MAX_EVENT + 4000)))
    passage = Passage(HIDING).feed(*pieces(large, range(0, len(large), 65_536)))
    assert passage.seen == large
    assert passage.meter.counts().output >= MAX_EVENT // 4


# What is estimated


@pytest.mark.parametrize(
    "make",
    [
        content,
        lambda text: chunk({"role": "assistant", "content": text}),
        lambda text: chunk({"reasoning_content": text}),
        lambda text: content(text, obfuscation="abcdefgh", usage=None),
        lambda text: {"id": "cmpl-1", "choices": [{"index": 0, "text": text, "logprobs": None}]},
        lambda text: {"choices": [{"finish_reason": None, "delta": {"content": text}}], "id": "x"},
        lambda text: chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
        delta,
        lambda text: delta(text, "function_call_arguments"),
        lambda text: delta(text, "reasoning_summary_text"),
    ],
)
@pytest.mark.parametrize("tight", [True, False])
def test_what_was_written_is_estimated_without_its_framing(make: Any, tight: bool) -> None:
    passage = Passage(HIDING).feed(*(event(make(" word"), tight=tight) for _ in range(80)))
    assert passage.meter.counts() == TokenCounts(0, 100)
    assert not passage.meter.output_told


def test_what_a_response_repeats_is_not_written_twice() -> None:
    repeated: list[Data] = [
        {"type": "response.output_text.done", "text": "x" * 400},
        {"type": "response.output_item.done", "item": {"content": [{"text": "x" * 400}]}},
        response("in_progress", tools=[{"parameters": {"delta": "x" * 400}}]),
    ]
    passage = Passage().feed(event(delta("x" * 400)), joined(repeated))
    assert passage.meter.counts() == TokenCounts(0, 100)
    passage = Passage().feed(event(delta("x" * 400)), *(event(e, name="") for e in repeated))
    assert passage.meter.counts() == TokenCounts(0, 100)


def test_a_stream_that_does_not_tell_its_usage_is_estimated() -> None:
    for told in ([], [chunk(usage=usage(0, 0))], [chunk(usage={"prompt_tokens": None})]):
        passage = Passage(HIDING).feed(event(content("x" * 400)), joined(told), DONE)
        assert passage.meter.finished
        assert not passage.meter.input_told
        assert not passage.meter.output_told
        assert passage.meter.counts() == TokenCounts(0, 100)


def test_what_was_written_after_usage_was_told_comes_on_top() -> None:
    passage = Passage().feed(event(content("a", usage=usage())), event(content("x" * 400)), DONE)
    assert passage.meter.counts() == TokenCounts(11, 107)
    assert not passage.meter.output_told


@pytest.mark.parametrize("data", [b"", b"\n\n", b": ping\n\n", event(content("a")), DONE[:-2]])
def test_a_stream_without_its_end_is_not_whole(data: bytes) -> None:
    passage = Passage().feed(data)
    assert not passage.meter.end()


# What can't be seen, and when the end is near


def test_a_completion_may_end_once_it_has_said_why_it_finished() -> None:
    for tight in (True, False):
        passage = Passage().feed(event(content('"finish_reason":"stop"'), tight=tight))
        assert not passage.meter.ends_soon
        finish = chunk({})
        finish["choices"][0]["finish_reason"] = "stop"
        assert passage.feed(event(finish, tight=tight)).meter.ends_soon
        assert passage.feed(event(chunk(usage=usage()), tight=tight)).meter.ends_soon


@pytest.mark.parametrize("kind", ["output_text", "content_part", "output_item", "refusal"])
def test_a_response_may_end_between_two_of_its_parts(kind: str) -> None:
    for tight in (True, False):
        passage = Passage().feed(event(delta('"type":"response.x.done"'), tight=tight))
        assert not passage.meter.ends_soon
        done = {"type": f"response.{kind}.done", "text": "Hello"}
        assert passage.feed(event(done, tight=tight)).meter.ends_soon
        assert not passage.feed(event(delta("more"), tight=tight)).meter.ends_soon


def test_reasoning_that_was_not_told_is_output_that_nobody_saw() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    added = event({"type": "response.output_item.added", "item": item})
    said = event(delta('{"type":"reasoning"}'))
    assert not Passage().feed(said).meter.unseen_output
    passage = Passage().feed(added, said)
    assert passage.meter.unseen_output
    passage.feed(event(response("completed", usage=response_usage())))
    assert not passage.meter.unseen_output
