"""How a command reaches the gateway: through the running server, or by a server of its own.

Either way the command speaks HTTP over a Unix socket to the same handlers. While a server has the
database, the socket is that server's, so a change takes effect at once. Otherwise the command
opens the database and runs a server on a temporary socket until the command has ended.

A sandbox has a database of its own. While one runs, and no server does on the database that a
command would take by default, the command goes to the sandbox, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from opuslive.bootstrap import open_gateway
from opuslive.cli.acting import as_owner_of
from opuslive.cli.output import echo
from opuslive.cli.sandboxes import Sandbox, noted_sandboxes
from opuslive.cli.waiting import Patience
from opuslive.config.files import Settings, control_path, database_url, shown_path
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.ownership import check_file
from opuslive.storage import DatabaseInUse, database_path
from opuslive.web.app import control_app

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How long a command waits for a server that is starting, or for another command.
PATIENCE_SECONDS = 10.0


class ControlClient:
    """Calls the handlers of ``/admin/api`` over a Unix socket."""

    def __init__(
        self, session: aiohttp.ClientSession, *, own: bool, sandbox: Sandbox | None
    ) -> None:
        """``own``: the command serves itself, since no server runs. ``sandbox``: it is that one
        which serves."""
        self._session = session
        self.own = own
        self.sandbox = sandbox
        #: Whether a call changed anything.
        self.changed = False

    async def call(
        self,
        method: str,
        *path: str,
        members: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON that the handler answers with.

        ``path`` stands below ``/admin/api``; ``members`` become the body. Raises OpusLiveError
        with the handler's sentence if it refuses, and UsageError for text that is not UTF-8.
        """
        url = _url(path, members, query)
        try:
            async with self._session.request(method, url, params=query, json=members) as response:
                answer = await response.json(content_type=None)
        except aiohttp.ClientConnectionError:
            raise _went_away() from None
        _raise_problem(response.status, answer)
        self.changed |= method != "GET"
        return answer

    async def follow(
        self, *path: str, members: Mapping[str, object], progress: Callable[[float], None]
    ) -> Any:
        """Have something done that takes long; return the JSON that it ends with.

        ``progress`` is told which part of it is done, from 0 to 1. Raises as ``call`` does.
        """
        url = _url(path, members, None)
        try:
            async with self._session.post(url, json=members) as response:
                if response.status >= 400:
                    _raise_problem(response.status, await response.json(content_type=None))
                async for line in response.content:
                    told = json.loads(line)
                    if "progress" in told:
                        progress(told["progress"])
                    elif "result" in told:
                        return told["result"]
                    else:
                        _raise_problem(told["problem"]["status"], told["problem"])
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            pass
        raise _went_away()

    async def download(
        self,
        *path: str,
        query: Sequence[tuple[str, str]],
        write: Callable[[bytes, Mapping[str, str]], None],
    ) -> None:
        """Have a file sent; ``write`` gets its parts, each with the headers of the answer.

        Raises as ``call`` does; and if the file breaks off, which what is written by then has to
        be marked with.
        """
        url = _url(path, None, dict(query))
        try:
            async with self._session.get(url, params=query) as response:
                if response.status >= 400:
                    _raise_problem(response.status, await response.json(content_type=None))
                async for part in response.content.iter_any():
                    write(part, response.headers)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            raise OpusLiveError(
                Code.INTERNAL, "The server went away before the file was complete; see its log."
            ) from None


def _url(path: Sequence[str], members: object, query: object) -> URL:
    try:
        json.dumps((path, members, query), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError(
            "An argument is not UTF-8 text; type it in a terminal that speaks UTF-8."
        ) from None
    below = "/".join(quote(part, safe="") for part in path)
    return URL(f"http://opuslive/admin/api/{below}", encoded=True)


def _raise_problem(status: int, answer: Mapping[str, object]) -> None:
    if status >= 400:
        raise OpusLiveError(_code(status), str(answer.get("detail", "")))


def _went_away() -> OpusLiveError:
    return OpusLiveError(Code.INTERNAL, "The server went away before it answered; see its log.")


def loaded(load: Callable[[], Settings]) -> Settings:
    """The configuration; standard error has what is wrong with its mode."""
    settings = load()
    if settings.warning is not None:
        echo(f"Warning: {settings.warning}", err=True)
    return settings


def run(load: Callable[[], Settings], action: Callable[[ControlClient], Awaitable[Any]]) -> Any:
    """Run a command's calls; return the result of ``action``. Raises OpusLiveError.

    Standard error says on which gateway it acts, if that is a sandbox; and where something was
    changed and no configuration was named, which one is in use, or which database without one.
    """
    settings = loaded(load)

    async def act() -> Any:
        async with found_control(settings) as api:
            result = await action(api)
        if api.changed and not settings.named and api.sandbox is None:
            if settings.file is not None:
                echo(f"Configuration: {shown_path(settings.file)}", err=True)
            else:
                path = database_path(database_url(settings.config, os.environ))
                echo(f"Database: {path}{' (no server runs)' if api.own else ''}", err=True)
        return result

    return asyncio.run(act())


@contextlib.asynccontextmanager
async def found_control(settings: Settings, *, quiet: bool = False) -> AsyncIterator[ControlClient]:
    """As ``control``, but for the sandbox that this user runs, if ``running_sandbox`` finds one;
    then standard error says so, unless it is to be ``quiet``."""
    sandbox = await running_sandbox(settings)
    if sandbox is None:
        async with control(settings) as client:
            yield client
        return
    if not quiet:
        echo(f"This is about the sandbox at {sandbox.address}.", err=True)
    async with _client(control_path(sandbox.url, os.environ), sandbox=sandbox) as client:
        yield client


async def running_sandbox(settings: Settings) -> Sandbox | None:
    """The sandbox that is meant: the newest one that runs, where neither a configuration was named
    nor a database configured, and no server runs on the default one."""
    if settings.named or settings.config.storage.url is not None:
        return None
    for sandbox in noted_sandboxes(os.environ):
        if await _listens(control_path(sandbox.url, os.environ), database_path(sandbox.url).parent):
            break
    else:
        return None
    url = database_url(settings.config, os.environ)
    if await _listens(control_path(url, os.environ), database_path(url).parent):
        return None
    return sandbox


@contextlib.asynccontextmanager
async def control(settings: Settings) -> AsyncIterator[ControlClient]:
    """Yields a client for one command.

    Raises DatabaseInUse if another process has the database for ``PATIENCE_SECONDS`` and hears
    no commands, and OpusLiveError if the database can't be opened, or if the control socket may be
    that of another user.
    """
    url = database_url(settings.config, os.environ)
    socket = control_path(url, os.environ)
    patience = Patience(PATIENCE_SECONDS)
    while True:
        with as_owner_of(database_path(url).parent):
            try:
                async with _own_server(settings, url) as own, _client(own, own=True) as client:
                    yield client
                return
            except DatabaseInUse as error:
                in_use = error
        if await _listens(socket, database_path(url).parent):
            async with _client(socket) as client:
                yield client
            return
        await patience.wait(in_use)


async def closed(settings: Settings, action: Callable[[str], Awaitable[T]]) -> T:
    """Run an action on the database, by its URL, while no server runs; as root, as its owner.

    Raises ServerRuns if one does, DatabaseInUse if another command has the database for
    ``PATIENCE_SECONDS``, and what the action raises.
    """
    url = database_url(settings.config, os.environ)
    folder = database_path(url).parent
    patience = Patience(PATIENCE_SECONDS)
    while True:
        try:
            with as_owner_of(folder):
                return await action(url)
        except DatabaseInUse as error:
            in_use = error
        if await _listens(control_path(url, os.environ), folder):
            raise ServerRuns
        await patience.wait(in_use)


class ServerRuns(OpusLiveError):
    """A server has the database, and only without one can something be done."""

    def __init__(self) -> None:
        super().__init__(
            Code.CONFLICT,
            "A server has the database open: stop it, run this again, and start it again.",
        )


@contextlib.asynccontextmanager
async def running_server(url: str) -> AsyncIterator[ControlClient | None]:
    """Yields a client of the server that has the database at ``url``; None if none hears commands.

    Raises UsageError if the control socket may be that of another user.
    """
    socket = control_path(url, os.environ)
    if not await _listens(socket, database_path(url).parent):
        yield None
        return
    async with _client(socket) as client:
        yield client


@contextlib.asynccontextmanager
async def _own_server(settings: Settings, url: str) -> AsyncIterator[Path]:
    """Open the database and serve commands on it. Yields the path of the socket."""
    gateway = await open_gateway(settings, url, environ=os.environ, serving=False)
    runner = web.AppRunner(control_app(gateway), access_log=None)
    try:
        await runner.setup()
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="opuslive-"))
                check_file(Path(folder), "The folder", "set TMPDIR to another one")
                path = Path(folder, "control.sock")
                await web.UnixSite(runner, path).start()
            except OSError as error:
                raise UsageError(
                    "Can't make a socket in the folder for temporary files "
                    f"({error.strerror or error}); set TMPDIR to another one."
                ) from None
            yield path
    finally:
        await runner.cleanup()
        await gateway.close()


@contextlib.asynccontextmanager
async def _client(
    socket: Path, *, own: bool = False, sandbox: Sandbox | None = None
) -> AsyncIterator[ControlClient]:
    connector = aiohttp.UnixConnector(str(socket))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield ControlClient(session, own=own, sandbox=sandbox)


async def finishing(url: str) -> int | None:
    """How many requests the server that has the database at ``url`` still answers, if it was told
    to end; None if it was not, or there is none that says so."""
    socket = control_path(url, os.environ)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            if await _listens(socket, database_path(url).parent):
                async with _client(socket) as client:
                    status = await client.call("GET", "status")
                    return int(status["requests_in_flight"]) if status["stopping"] else None
    except (OpusLiveError, TimeoutError, KeyError, TypeError, ValueError):
        log.debug("the server that has the database does not tell how it is doing")
    return None


async def _listens(socket: Path, data_folder: Path) -> bool:
    """Whether a server listens. Raises UsageError if it may be anybody's.

    It has to be root's, this user's, or that of the owner of the data folder, where root may act
    as the owner.
    """
    try:
        with as_owner_of(data_folder):
            check_file(socket, "The control socket", "remove it and restart the server")
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    return True


def _code(status: int) -> Code:
    return next((code for code in Code if code.status == status), Code.INTERNAL)
