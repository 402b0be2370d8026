"""What can be wrong at the start: one sentence on standard error, exit status 1."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.ipv6 import NEEDS_IPV6
from tests.support.server import Server, Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPSTREAM = "http://127.0.0.1:9"


async def fails(server: Server, *options: str, **environ: str) -> str:
    """What ``serve`` complains of; the server's own port is not among it."""
    outcome = await server.run("serve", "--port", "0", *options, **environ)
    assert "Traceback" not in outcome.err
    return outcome.complaint


class TestConfiguration:
    @pytest.mark.parametrize(
        "source", [{"api_key_env": "PROVIDER_KEY"}, {"api_key_file": "provider.key"}]
    )
    async def test_a_missing_credential_is_named(
        self, servers: Servers, source: dict[str, str]
    ) -> None:
        upstream = {"name": "p", "base_url": UPSTREAM, **source}
        server = servers.make(UPSTREAM, upstreams=[upstream])
        complaint = await fails(server)
        assert next(iter(source.values())) in complaint

    async def test_a_missing_certificate_is_named(self, servers: Servers) -> None:
        server = servers.make(UPSTREAM)
        tls = '\n[server.tls]\ncertificate = "none.pem"\nprivate_key = "none.pem"\n'
        server.config_file.write_text(server.config_file.read_text() + tls)
        assert "none.pem" in await fails(server)

    async def test_a_credential_file_that_others_may_read_is_warned_of(
        self, servers: Servers
    ) -> None:
        upstream = {"name": "p", "base_url": UPSTREAM, "api_key_file": "provider.key"}
        server = servers.make(UPSTREAM, upstreams=[upstream])
        credential = server.folder / "provider.key"
        credential.write_text("canary-of-a-credential\n")
        credential.chmod(0o644)
        await server.start()
        await server.logged(r"warning: .*provider\.key .*0644.*chmod 600")
        assert "canary" not in server.log
        assert await server.stop() == 0
        credential.chmod(0o600)
        await server.start()
        assert "warning" not in server.log

    async def test_the_configuration_in_use_is_named(self, servers: Servers) -> None:
        server = servers.make(UPSTREAM)
        await server.start()
        await server.printed(f"Configuration: {re.escape(str(server.config_file))}\n")


class TestPort:
    async def test_a_port_in_use_is_named_and_nothing_is_left_behind(
        self, servers: Servers
    ) -> None:
        server = servers.make(UPSTREAM)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            complaint = await fails(server, "--port", str(port))
        assert str(port) in complaint
        assert "--port" in complaint
        # And it left nothing behind that would be in the way of the next start.
        await server.start()
        assert await server.stop() == 0

    async def test_an_address_that_is_not_this_machine_s_is_named(self, servers: Servers) -> None:
        upstream = servers.make(UPSTREAM, server={"behind_proxy": True})
        assert "192.0.2.1" in await fails(upstream, "--host", "192.0.2.1")


def _as_folder(database: Path) -> None:
    database.mkdir()


def _in_a_file(database: Path) -> None:
    database.parent.rmdir()
    database.parent.write_text("a file where a folder should be")


def _text(database: Path) -> None:
    database.write_text("This is not a database. " * 100)


def _foreign(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE contacts (name TEXT)")


def _damaged(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE t (name TEXT)")
    content = bytearray(database.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    database.write_bytes(content)


class TestDatabase:
    async def test_what_is_no_database_is_named_and_not_touched(self, servers: Servers) -> None:
        async def complains(spoil: Callable[[Path], None], said: str) -> None:
            server = servers.make(UPSTREAM)
            spoil(server.database)
            before = server.files()
            complaint = await fails(server)
            assert said in complaint
            assert str(server.database) in complaint
            after = server.files()
            assert {path: after[path] for path in before} == before  # it is not touched

        await asyncio.gather(
            complains(_as_folder, "is a folder"),
            complains(_in_a_file, "Not a directory"),
            complains(_text, "is not a database"),
            complains(_foreign, "another program"),
            complains(_damaged, "database"),
        )

    async def test_a_database_of_a_newer_version_is_refused(self, servers: Servers) -> None:
        server = servers.make(UPSTREAM)
        assert (await server.run("keys", "list")).status == 0
        with closing(sqlite3.connect(server.database)) as connection:
            connection.execute("PRAGMA user_version = 999")
        complaint = await fails(server)
        assert "999" in complaint
        assert "upgrade" in complaint

    async def test_a_second_server_is_refused_and_the_first_goes_on(self, servers: Servers) -> None:
        server = await servers.start(UPSTREAM)
        assert "in use" in await fails(server)
        assert (await server.request("GET", "/readyz")).status == 200
        assert await server.json("keys", "list") == []

    async def test_files_of_the_database_are_private(self, servers: Servers) -> None:
        server = await servers.start(UPSTREAM)
        modes = {
            path.name: oct(path.stat().st_mode & 0o777) for path in server.database.parent.iterdir()
        }
        assert modes.keys() >= {"opuslive.db", "opuslive.db-wal", "opuslive.db.sock"}
        assert set(modes.values()) == {"0o600"}

    async def test_the_default_database_is_found_by_commands(self, servers: Servers) -> None:
        server = servers.make(UPSTREAM, storage={})
        await server.start()
        assert (server.folder / "state" / "opuslive" / "opuslive.db").exists()
        outcome = await server.json("keys", "create", "found through XDG_STATE_HOME")
        answer = await server.request("GET", "/v1/usage", key=outcome["key"])
        assert answer.status == 200

    async def test_a_database_path_too_long_for_a_socket_is_no_obstacle(
        self, servers: Servers
    ) -> None:
        server = servers.make(UPSTREAM)
        database = server.folder / ("long" * 30) / "opuslive.db"
        server.write_config(
            {
                "storage": {"url": f"sqlite://{database}"},
                "upstreams": [{"name": "p", "base_url": UPSTREAM}],
            }
        )
        await server.start()
        made = await server.json("keys", "create", "through XDG_RUNTIME_DIR")
        assert (await server.request("GET", "/v1/usage", key=made["key"])).status == 200


def _open_to_all(path: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


@pytest.mark.skipif(
    os.geteuid() != 0 or not _open_to_all(Path(os.__file__).parent),
    reason="only root can act as others, and only with a Python that others may run",
)
async def test_as_root_a_command_leaves_no_file_of_roots(servers: Servers) -> None:
    server = servers.make(UPSTREAM)
    nobody = 65534
    os.chown(server.database.parent, nobody, nobody)
    # Whose parents root made for itself.
    server.folder.chmod(0o755)
    outcome = await server.run("keys", "create", "someone", "--json", TMPDIR="/tmp")
    assert outcome.status == 0, outcome
    assert {path.stat().st_uid for path in server.database.parent.iterdir()} == {nobody}


async def test_two_commands_at_once_without_a_server(servers: Servers) -> None:
    server = servers.make(UPSTREAM)
    await asyncio.gather(*(server.create_key(f"name {number}") for number in range(4)))
    names = {key["name"] for key in await server.json("keys", "list")}
    assert names == {f"name {number}" for number in range(4)}


async def test_a_command_waits_for_a_server_that_starts(servers: Servers) -> None:
    server = servers.make(UPSTREAM)
    _, created = await asyncio.gather(server.start(), server.create_key("early"))
    answer = await server.request("GET", "/v1/usage", key=created["key"])
    assert answer.status == 200


BOTH = r"127\.0\.0\.1:\d+ and http://\[::1\]:\d+"
ALL_OF_IPV4 = r"127\.0\.0\.1:\d+, and on this machine's other addresses"


@pytest.mark.parametrize(
    ("options", "said", "addresses"),
    [
        pytest.param(["--host", "::"], f"{BOTH}, and on", 2, marks=NEEDS_IPV6),
        pytest.param(["--host", "127.0.0.1", "--host", "::1"], BOTH, 2, marks=NEEDS_IPV6),
        (["--host", "0.0.0.0"], ALL_OF_IPV4, 1),
    ],
    ids=["every address", "a list", "every address of IPv4"],
)
async def test_every_address_that_is_asked_for_answers_on_one_port(
    servers: Servers, options: list[str], said: str, addresses: int
) -> None:
    server = servers.make(UPSTREAM, server={"behind_proxy": True})
    await server.start(*options)
    await server.printed(f"listens on http://{said}")
    assert len(set(re.findall(r"[.\]][0-9]*:([0-9]+)", server.out.partition("(")[0]))) == 1
    for host in ("127.0.0.1", "::1")[:addresses]:
        reader, writer = await asyncio.open_connection(host, server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert await server.stop() == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
async def test_a_terminal_of_another_encoding_stops_neither_a_server_nor_a_command(
    servers: Servers, encoding: str
) -> None:
    server = servers.make(UPSTREAM, log={"format": "json", "level": "debug", "access": True})
    server.environ["PYTHONIOENCODING"] = encoding
    await server.start()
    made = await server.create_key("café ☕")
    assert made["name"] == "café ☕"
    assert (await server.request("GET", "/v1/usage", key=made["key"])).status == 200
    assert (await server.run("keys", "show", "café ☕", PYTHONIOENCODING="ascii")).status == 0
    assert await server.stop() == 0
    assert all(json.loads(line) for line in server.log.splitlines())
