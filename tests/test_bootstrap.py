"""Putting a gateway together: what it leaves behind when that fails, and what commands may do."""

from __future__ import annotations

from pathlib import Path

import pytest

from opuslive.bootstrap import Gateway, open_gateway
from opuslive.config.files import Settings
from opuslive.config.sections import parse_config
from opuslive.errors import UsageError
from opuslive.storage import open_storage
from tests.support.keys import a_key, a_record


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'opuslive.db'}"


async def opened(url: str, *, serving: bool) -> Gateway:
    upstream = {"name": "p", "base_url": "http://127.0.0.1:9", "api_key": "k"}
    config = parse_config({"upstreams": [upstream]}, source="test")
    return await open_gateway(Settings(config), url, environ={}, serving=serving)


@pytest.mark.parametrize("serving", [False, True])
async def test_a_failure_leaves_the_database_to_others(url: str, serving: bool) -> None:
    storage = await open_storage(url)
    await storage.add_key(a_key(limits=("nonsense",)))
    await storage.close()
    with pytest.raises(UsageError, match="is not a limit"):
        await opened(url, serving=serving)
    storage = await open_storage(url)
    assert [key.id for key in await storage.keys()] == [a_key().id]
    await storage.close()


async def test_what_ran_when_a_process_was_killed_is_closed_by_the_next_server_alone(
    url: str,
) -> None:
    """A command only looks, and needs no room on the disk for that."""
    storage = await open_storage(url)
    await storage.add_key(a_key())
    storage.keep_open(a_record(status=None))
    await storage.close()
    gateway = await opened(url, serving=False)
    records, _ = await gateway.storage.records(a_key().id)
    await gateway.close()
    assert [record.status for record in records] == [None]
    gateway = await opened(url, serving=True)
    records, _ = await gateway.storage.records(a_key().id)
    await gateway.close()
    assert [record.status for record in records] == [503]
