"""The lists of models that upstreams give, page by page.

The kind: a list that comes whole, in one page or in several; and one of which a part does not
come, because the upstream fails, answers with something else, or has its pages go in a circle.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import pytest

from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.gateway.upstreams import catalog, listing
from opuslive.gateway.upstreams.catalog import Catalog
from opuslive.gateway.upstreams.failures import FailureLog
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.gateway.upstreams.monitor import Monitor
from opuslive.gateway.upstreams.pool import UpstreamPool
from opuslive.gateway.upstreams.router import Router
from opuslive.gateway.upstreams.upstream import Upstream
from tests.support.listener import Listener, Peer, answer
from tests.support.pools import MakePool
from tests.support.waiting import eventually, turns


def page(ids: Sequence[str], **more: object) -> bytes:
    return answer(json.dumps({"data": [{"id": id_} for id_ in ids], **more}).encode())


class Asked:
    """A catalog that is fetching the list of an upstream, whose end of the wire is ``peer``."""

    def __init__(self, catalog: Catalog, upstream: Upstream, peer: Peer) -> None:
        self.catalog = catalog
        self.upstream = upstream
        self.peer = peer

    async def gets(self, sent: bytes, *, after: str | None = None) -> None:
        """It asks for the page after this id, and gets ``sent``."""
        head = await self.peer.request()
        query = "limit=1000" + ("" if after is None else f"&after_id={after}")
        assert head.startswith(f"GET /v1/models?{query} HTTP/1.1\r\n".encode())
        self.peer.send(sent)

    async def lists(self, *ids: str) -> None:
        await eventually(lambda: set(self.catalog.listed()) == set(ids), "the list")
        await turns()
        assert set(self.catalog.listed()) == set(ids)


@pytest.fixture
async def asked(pool: UpstreamPool, listener: Listener) -> AsyncIterator[Asked]:
    made = Catalog(Monitor(FailureLog(lambda: 0), lambda name: True, lambda: 0))
    upstream = Upstream("a", AnthropicDialect(), pool, b"upstream", b"", (), ("*",), 0, 1)
    made.use([upstream])
    yield Asked(made, upstream, await listener.accept())
    await made.close()


async def test_a_list_of_one_page_is_asked_for_once(asked: Asked) -> None:
    await asked.gets(page(["a", "b"], has_more=False, last_id="b"))
    await asked.lists("a", "b")


async def test_all_pages_of_a_list_are_asked_for(asked: Asked) -> None:
    await asked.gets(page(["a", "b"], has_more=True, last_id="b"))
    await asked.gets(page(["c"], has_more=True, last_id="c"), after="b")
    await asked.gets(page(["d"], has_more=False), after="c")
    await asked.lists("a", "b", "c", "d")


@pytest.mark.parametrize("last", ["a", "b"], ids=["the same page again", "two pages in turn"])
async def test_pages_that_go_in_a_circle_are_followed_once(asked: Asked, last: str) -> None:
    await asked.gets(page(["a"], has_more=True, last_id="a"))
    await asked.gets(page(["b"], has_more=True, last_id=last), after="a")
    if last == "b":
        await asked.gets(page(["c"], has_more=True, last_id="a"), after="b")
    await asked.lists("a", "b", *(["c"] if last == "b" else []))


async def test_pages_without_end_are_followed_to_a_bound(asked: Asked) -> None:
    ids = [f"m{number}" for number in range(listing.MAX_PAGES)]
    for before, id_ in zip([None, *ids], ids, strict=False):
        await asked.gets(page([id_], has_more=True, last_id=id_), after=before)
    await asked.lists(*ids)


@pytest.mark.parametrize(
    "failure",
    [
        answer(b"", status=500),
        answer(b"", status=401),
        answer(b"<html>"),
        answer(b'{"data":[{}]}'),
        b"garbage\r\n\r\n",
        b"",
    ],
)
async def test_a_page_that_does_not_come_takes_no_other_with_it(
    asked: Asked, failure: bytes
) -> None:
    await asked.gets(page(["a", "b"], has_more=True, last_id="b"))
    await asked.gets(failure, after="b")
    if not failure:
        asked.peer.close()
    await asked.lists("a", "b")


async def test_what_does_not_come_again_stays_as_it_was(
    asked: Asked, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(catalog, "RETRY_SECONDS", 0.0)
    await asked.gets(page(["a"], has_more=True, last_id="a"))
    await asked.gets(page(["b"]), after="a")
    await asked.gets(page(["c"], has_more=True, last_id="c"))
    await asked.gets(answer(b"", status=500), after="c")
    await asked.lists("a", "b", "c")
    await asked.gets(answer(b"", status=500))
    await asked.lists("a", "b", "c")
    await asked.gets(page(["d"]))
    await asked.lists("d")


async def test_a_credential_that_is_refused_is_looked_at_until_the_list_comes(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RETRY_SECONDS", 0.01)
    health = asked.upstream.health
    health.refused(0)
    await asked.gets(page(["a"]))
    await asked.lists("a")
    # Whoever is asked may have the list, with a credential or without.
    assert health.state(0) is UpstreamState.CREDENTIAL_REFUSED
    await asked.gets(answer(b"", status=401))
    await asked.gets(page(["a"]))
    await eventually(lambda: health.state(0) is UpstreamState.UNUSED)


async def test_a_credential_that_works_may_be_one_that_reads_no_lists(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    health = asked.upstream.health
    health.accepted()
    await asked.gets(answer(b"", status=401))
    await eventually(lambda: "(status 401 on its list of models)" in caplog.text)
    assert health.state(0) is UpstreamState.UNUSED
    assert health.aside_until(0) == 0


async def test_the_lists_of_other_upstreams_take_the_place_of_those_before(
    asked: Asked, make_pool: MakePool, listener: Listener
) -> None:
    await asked.gets(page(["a"]))
    await asked.lists("a")
    beside = Listener()

    def named(name: str, port: int) -> Upstream:
        pool = make_pool(port)
        return Upstream(name, AnthropicDialect(), pool, b"upstream", b"", (), ("*",), 0, 1)

    same, other = named("a", listener.port), named("b", beside.port)
    asked.catalog.use([same, other])
    # The one with the same name has that list, until its own is there.
    await asked.lists("a")
    gone = await listener.accept()
    await gone.request()
    asked.catalog.use([other])
    await asked.lists()
    # Nobody waits any more for the list of the one that is gone.
    assert await gone.closed()
    peer = await beside.accept()
    await peer.request()
    peer.send(page(["b"]))
    await asked.lists("b")
    beside.close()


@pytest.mark.parametrize("authority", [b"elsewhere", b"upstream:81"])
async def test_the_list_of_another_server_is_not_that_of_one_before_of_the_same_name(
    asked: Asked, make_pool: MakePool, listener: Listener, authority: bytes
) -> None:
    """Also if it never gives one."""
    await asked.gets(page(["a"]))
    await asked.lists("a")
    pool = make_pool(listener.port)
    moved = Upstream("a", AnthropicDialect(), pool, authority, b"", (), ("*",), 0, 1)
    asked.catalog.use([moved])
    await asked.lists()
    peer = await listener.accept()
    await peer.request()
    peer.send(answer(b"", status=404))
    await asked.lists()


#: What belongs to the kind of names that do something on a terminal, in a log line or in a table:
#: control characters of both blocks, line ends of every sort, marks that turn text around or take
#: no room, letters that look like others, spaces that look like a column, a text without end.
NO_NAMES = [
    "\x1b[2Jb",
    "\x9b31mb",
    "b\n2026-01-01T00:00:00.000Z error: forged",
    "b\r",
    "b\u2028c",
    "\u202eb",
    "b\u200b",
    "b\u0301",
    "\u0441laude",
    "b  7,000",
    " b",
    "b ",
    "",
    "b\u00a0",
    "b\t",
    "\x7f",
    "b" * 257,
]


@pytest.mark.parametrize("odd", NO_NAMES, ids=ascii)
async def test_an_id_that_is_no_name_is_left_out(asked: Asked, odd: str) -> None:
    await asked.gets(page(["a", odd, "c[1m]:d/e@f g"]))
    await asked.lists("a", "c[1m]:d/e@f g")


async def test_a_list_has_so_many_models_at_most(asked: Asked) -> None:
    ids = [f"m{number}" for number in range(listing.MAX_MODELS + 1000)]
    for start in range(0, listing.MAX_MODELS, 1000):
        part = ids[start : start + 1000]
        after = ids[start - 1] if start else None
        await asked.gets(page(part, has_more=True, last_id=part[-1]), after=after)
    await asked.lists(*ids[: listing.MAX_MODELS])


class TestUsableModels:
    """The globs of a key are held against the lists once, not with each request."""

    @pytest.fixture
    def router(self, asked: Asked) -> Router:
        return self.router_of(asked)

    def router_of(self, asked: Asked, **aliases: str) -> Router:
        return Router([asked.upstream], aliases, lambda name: None, set)

    async def test_the_same_globs_are_looked_up_once(self, asked: Asked, router: Router) -> None:
        await asked.gets(page(["a1", "a2", "b1"]))
        await asked.lists("a1", "a2", "b1")
        found = asked.catalog.models_for(router, ("a*", "c"))
        assert [model.id for model in found] == ["a1", "a2"]
        assert asked.catalog.models_for(router, ["a*", "c"]) is found
        assert [model.id for model in asked.catalog.models_for(router, ["b*"])] == ["b1"]

    async def test_a_new_list_is_looked_at(
        self, asked: Asked, router: Router, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(catalog, "REFRESH_SECONDS", 0.0)
        monkeypatch.setattr(catalog, "RETRY_SECONDS", 0.0)
        assert asked.catalog.models_for(router, ["a*"]) == ()
        await asked.gets(page(["a1"]))
        await asked.lists("a1")
        assert [model.id for model in asked.catalog.models_for(router, ["a*"])] == ["a1"]
        await asked.gets(page(["a2"]))
        await asked.lists("a2")
        assert [model.id for model in asked.catalog.models_for(router, ["a*"])] == ["a2"]

    async def test_another_configuration_is_looked_at(self, asked: Asked, router: Router) -> None:
        await asked.gets(page(["a1"]))
        await asked.lists("a1")
        assert [model.id for model in asked.catalog.models_for(router, [])] == ["a1"]
        other = self.router_of(asked, short="a1")
        assert [model.id for model in asked.catalog.models_for(other, [])] == ["short", "a1"]

    async def test_globs_without_number_are_not_all_remembered(
        self, asked: Asked, router: Router
    ) -> None:
        for number in range(3 * catalog.MAX_REMEMBERED):
            asked.catalog.models_for(router, [f"a{number}*"])
            assert len(asked.catalog._usable) <= catalog.MAX_REMEMBERED
