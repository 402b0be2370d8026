"""Which upstreams a request goes to, and in what order; which names are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest

from opuslive.dialects import Buffer, Dialect, registry
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.upstreams.router import Router, allowed, model_not_found
from opuslive.gateway.upstreams.upstream import Upstream
from tests.support.upstreams import ANTHROPIC, upstream


def router(
    *upstreams: Upstream,
    aliases: Mapping[str, str] | None = None,
    priced: Collection[str] = (),
    listed: Collection[str] = (),
) -> Router:
    def priced_name(model: str) -> str | None:
        return model if model in priced else None

    return Router(upstreams, aliases or {}, priced_name, lambda: listed)


def names(upstreams: Sequence[Upstream]) -> list[str]:
    return [each.name for each in upstreams]


def refused(router: Router, model: str, dialect: Dialect = ANTHROPIC) -> bool:
    with pytest.raises(OpusLiveError) as raised:
        router.candidates(model, dialect)
    assert (raised.value.code, str(raised.value)) == (Code.MODEL_NOT_FOUND, str(model_not_found()))
    return True


class TestCandidates:
    async def test_candidates_serve_the_model(self) -> None:
        one, two = upstream("one", "claude-opus-*"), upstream("two", "claude-*", "other")
        assert names(router(one, two).candidates("other", ANTHROPIC)) == ["two"]
        assert names(router(one, two).candidates("claude-opus-4", ANTHROPIC)) == ["one", "two"]
        assert refused(router(one, two), "claude")
        assert refused(router(one, two), "Claude-opus-4")
        assert refused(router(one, two), "xclaude-opus-4")
        assert refused(router(), "claude-opus-4")

    async def test_brackets_and_question_marks_in_globs_stand_for_themselves(self) -> None:
        routed = router(upstream("one", "claude-opus-4-8[1m]", "claude-?"))
        for served in ("claude-opus-4-8[1m]", "claude-?"):
            assert names(routed.candidates(served, ANTHROPIC)) == ["one"]
        for other in ("claude-opus-4-81", "claude-opus-4-8m", "claude-opus-4-8", "claude-x"):
            assert refused(routed, other)

    async def test_candidates_serve_every_model_that_takes_part(self) -> None:
        one, two = (
            upstream("one", "claude-haiku-*"),
            upstream("two", "claude-haiku-*", "claude-opus-*"),
        )
        routed = router(one, two)
        assert names(routed.candidates("claude-haiku-4", ANTHROPIC)) == ["one", "two"]
        assert names(routed.candidates("claude-haiku-4", ANTHROPIC, ["claude-opus-4"])) == ["two"]
        with pytest.raises(OpusLiveError) as raised:
            routed.candidates("claude-haiku-4", ANTHROPIC, ["claude-opus-4", "gpt-5"])
        assert raised.value.code is Code.MODEL_NOT_FOUND

    async def test_a_model_that_another_dialect_serves_is_said_to_be_served_there(self) -> None:
        routed = router(upstream(), upstream("other", "gpt-*"))
        with pytest.raises(OpusLiveError) as raised:
            routed.candidates("claude-opus-4", registry.DIALECTS["openai"])
        assert raised.value.code is Code.MODEL_NOT_FOUND
        assert raised.value.message == (
            "This model is served at /v1/messages only: nothing is converted between formats."
        )
        with pytest.raises(OpusLiveError, match="does not exist here"):
            routed.candidates("llama", registry.DIALECTS["openai"])
        openai = registry.DIALECTS["openai"]
        both = router(upstream(), upstream("other", "claude-*", dialect=openai))
        with pytest.raises(OpusLiveError, match="does not exist here"):
            both.candidates("claude-opus-4", openai, ["llama"])

    async def test_candidates_come_by_priority(self) -> None:
        routed = router(
            upstream("last", priority=9),
            upstream("middle", priority=1),
            upstream("first", priority=-5),
            upstream("other", "gpt", priority=1),
            upstream("beside", priority=1),
        )
        candidates = routed.candidates("claude-opus-4", ANTHROPIC)
        assert names(candidates) == ["first", "middle", "beside", "last"]


class TestReplacement:
    async def test_other_upstreams_and_aliases_come_together(self) -> None:
        old, new = upstream("one", "claude-old"), upstream("one", "claude-new", "claude-last")
        routed = router(old, aliases={"claude": "claude-old", "gone": "claude-old"})
        before = routed.candidates("claude-old", ANTHROPIC)
        routed.use([new], {"claude": "claude-new"})
        assert routed.resolve("claude") == "claude-new"
        assert routed.resolve("gone") == "gone"
        assert refused(routed, "claude-old")
        assert routed.candidates("claude-new", ANTHROPIC) == [new]
        assert routed.upstreams == (new,)
        assert set(routed.literal_models()) == {"claude-new", "claude-last"}
        # Whoever was routed before goes where it was to go.
        assert before == [old]


class TestAliases:
    async def test_an_alias_stands_for_a_model_once(self) -> None:
        routed = router(upstream(), aliases={"opus": "claude-opus-4", "claude-opus-4": "looped"})
        assert routed.resolve("opus") == "claude-opus-4"
        assert routed.resolve("claude-opus-4") == "looped"
        assert routed.resolve("Opus") == "Opus"


class TestKeptNames:
    @pytest.mark.parametrize(
        ("model", "kept"),
        [
            ("claude-literal", True),
            ("opus", True),
            ("claude-target", True),
            ("claude-priced", True),
            ("claude-listed", True),
            ("claude-my-diary", False),
            ("claude-*", False),
            ("claude-opus-4-8[1m]", True),
            ("claude-opus-4-8m", False),
            ("claude-?", True),
            ("claude-a", False),
            ("", False),
            (None, False),
        ],
    )
    async def test_only_names_that_the_gateway_knows_are_kept(
        self, model: str | None, kept: bool
    ) -> None:
        """A glob that matches is not enough: the holder could have written anything."""
        routed = router(
            upstream("one", "claude-*", "claude-opus-4-8[1m]", "claude-?", "claude-literal"),
            aliases={"opus": "claude-target"},
            priced=["claude-priced"],
            listed=["claude-listed"],
        )
        assert routed.kept_name(model) == (model if kept else None)

    async def test_literal_models_are_no_aliases(self) -> None:
        routed = router(upstream("one", "claude-*", "named"), aliases={"opus": "target"})
        assert set(routed.literal_models()) == {"named", "target"}


@pytest.mark.parametrize(
    ("globs", "model", "may"),
    [
        ((), "anything", True),
        (("claude-*",), "claude-opus", True),
        (("claude-*",), "gpt", False),
        (("gpt", "claude-*"), "claude-opus", True),
        (("claude-opus-4-8[1m]",), "claude-opus-4-8[1m]", True),
        (("claude-opus-4-8[1m]",), "claude-opus-4-81", False),
        (("claude-opus-4-8[1m]",), "claude-opus-4-8m", False),
        (("claude-*[1m]",), "claude-opus-4-8[1m]", True),
        (("claude-?",), "claude-?", True),
        (("claude-?",), "claude-a", False),
        (("claude",), "claude-opus", False),
        (("CLAUDE-*",), "claude-opus", False),
    ],
)
def test_the_globs_of_a_key_say_which_models_it_may_use(
    globs: tuple[str, ...], model: str, may: bool
) -> None:
    assert allowed(globs, model) is may


class TestRequests:
    async def test_a_request_with_a_body_on_the_wire(self) -> None:
        body: list[Buffer] = [b"{", memoryview(b"}")]
        request = upstream(path_prefix=b"/anthropic").request(
            "POST", "/v1/messages", b"beta=true&x=%20", [(b"X-Beta", b"\xc3\xa4 a, b")], body
        )
        assert request.head == (
            b"POST /anthropic/v1/messages?beta=true&x=%20 HTTP/1.1\r\n"
            b"host: upstream.example\r\n"
            b"x-api-key: secret\r\n"
            b"X-Beta: \xc3\xa4 a, b\r\n"
            b"content-length: 2\r\n\r\n"
        )
        assert (request.method, request.body) == ("POST", body)

    async def test_a_request_without_a_body_on_the_wire(self) -> None:
        assert upstream().request("GET", "/v1/models").head == (
            b"GET /v1/models HTTP/1.1\r\nhost: upstream.example\r\nx-api-key: secret\r\n\r\n"
        )

    @pytest.mark.parametrize("evil", [b"a\r\nx: y", b"a\nx: y", b"a\rx: y", b"a\0", b"\r\n\r\n"])
    @pytest.mark.parametrize("place", ["query", "name", "value"])
    async def test_nothing_breaks_out_of_its_line_in_a_head(self, evil: bytes, place: str) -> None:
        query = evil if place == "query" else b""
        header = (evil if place == "name" else b"x", evil if place == "value" else b"y")
        with pytest.raises(OpusLiveError) as raised:
            upstream().request("POST", "/v1/messages", query, [header])
        assert raised.value.code is Code.INVALID_REQUEST
