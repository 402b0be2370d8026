"""The lists of models that upstreams give, page by page.

The kind: a list that comes whole, in one page or in several; and one of which a part does not
come, because the upstream fails, answers with something else, or has its pages go in a circle.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import pytest

from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.gateway.upstreams import catalog
from opuslive.gateway.upstreams.catalog import Catalog
from opuslive.gateway.upstreams.health import Health
from opuslive.gateway.upstreams.pool import UpstreamPool
from opuslive.gateway.upstreams.upstream import Upstream
from tests.support.listener import Listener, Peer, answer
from tests.support.waiting import eventually, turns


def page(ids: Sequence[str], **more: object) -> bytes:
    return answer(json.dumps({"data": [{"id": id_} for id_ in ids], **more}).encode())


class Asked:
    """A catalog that is fetching the list of an upstream, whose end of the wire is ``peer``."""

    def __init__(self, catalog: Catalog, peer: Peer) -> None:
        self._catalog = catalog
        self.peer = peer

    async def gets(self, sent: bytes, *, after: str | None = None) -> None:
        """It asks for the page after this id, and gets ``sent``."""
        head = await self.peer.request()
        query = "limit=1000" + ("" if after is None else f"&after_id={after}")
        assert head.startswith(f"GET /v1/models?{query} HTTP/1.1\r\n".encode())
        self.peer.send(sent)

    async def lists(self, *ids: str) -> None:
        await eventually(lambda: set(self._catalog.listed()) == set(ids), "the list")
        await turns()
        assert set(self._catalog.listed()) == set(ids)


@pytest.fixture
async def asked(pool: UpstreamPool, listener: Listener) -> AsyncIterator[Asked]:
    made = Catalog(Health(["a"], lambda name: True, lambda: 0))
    upstream = Upstream("a", AnthropicDialect(), pool, b"upstream", b"", (), ("*",), 0, 1)
    made.start([upstream])
    yield Asked(made, await listener.accept())
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
    ids = [f"m{number}" for number in range(catalog.MAX_PAGES)]
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


async def test_an_id_that_is_no_name_is_left_out(asked: Asked) -> None:
    await asked.gets(page(["a", "b" * 257, "c"]))
    await asked.lists("a", "c")
