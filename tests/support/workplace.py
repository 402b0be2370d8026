"""A folder with a configuration, on which commands run inside this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from opuslive.bootstrap import open_gateway
from opuslive.cli import main
from opuslive.config.files import control_path, database_url, load_settings
from opuslive.keys import Key
from opuslive.storage import open_storage
from opuslive.usage import UsageRecord
from opuslive.web.http.listening import open_sockets
from opuslive.web.server import WebServer
from tests.support.server import Outcome, Server, gateway_config
from tests.support.waiting import PATIENCE
from tests.support.wire import Answer

T = TypeVar("T")

#: Nothing listens there; commands don't ask upstreams anything.
UPSTREAM = "http://127.0.0.1:9"
#: For tests in whose process handlers run: aiohttp warns once of the keys that requests have.
SERVED = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


class Workplace:
    """Runs commands as the shell would: with an environment, a working folder, and nothing else.

    They go the same way as in a process of their own, to the control socket or the database.
    """

    def __init__(self, folder: Path, upstream_url: str | None, **sections: Any) -> None:
        # Not started: it lays out the folder, and asks whatever listens on its port.
        self._server = Server(folder, gateway_config(upstream_url, **sections))
        self.folder = folder
        self.home = folder / "home"
        self.config_file = self._server.config_file
        self.database = self._server.database

    def run(
        self, *arguments: str, input_: str = "", charset: str = "utf-8", **environ: str
    ) -> Outcome:
        """Run a command on the configuration. What is no error of a user's is raised."""
        named = ("--config", str(self.config_file))
        return self.run_bare(*named, *arguments, input_=input_, charset=charset, **environ)

    def run_bare(
        self, *arguments: str, input_: str = "", charset: str = "utf-8", **environ: str
    ) -> Outcome:
        """Run a command that has to find its configuration."""
        nothing: dict[str, str | None] = dict.fromkeys(os.environ)
        with contextlib.chdir(self.home):
            done = CliRunner(charset=charset).invoke(
                main,
                arguments,
                input=input_,
                env={**nothing, **self._server.environ, **environ},
                prog_name="opuslive",
                catch_exceptions=False,
            )
        return Outcome(done.exit_code, done.stdout, done.stderr)

    def json(self, *arguments: str) -> Any:
        """Run a command that has to succeed, with ``--json``; return what it printed."""
        outcome = self.run(*arguments, "--json")
        assert outcome.status == 0, outcome
        assert outcome.err == ""
        return outcome.json()

    def create_key(self, name: str, *options: str) -> Any:
        """Make a key with ``keys create``: its members, ``key`` among them."""
        return self.json("keys", "create", name, *options)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Run a server on the same database, in a thread of its own."""
        listening: Future[int] = Future()
        stopped = threading.Event()
        thread = threading.Thread(target=self._serve, args=(listening, stopped))
        thread.start()
        try:
            self._server.port = listening.result(PATIENCE)
            yield
        finally:
            stopped.set()
            thread.join(PATIENCE)
        assert not thread.is_alive()

    def _serve(self, listening: Future[int], stopped: threading.Event) -> None:
        try:
            asyncio.run(self._listen(listening, stopped))
        except BaseException as error:
            if listening.done():
                raise
            listening.set_exception(error)

    async def _listen(self, listening: Future[int], stopped: threading.Event) -> None:
        environ = self._server.environ
        settings = load_settings(str(self.config_file), environ)
        url = database_url(settings.config, environ)
        gateway = await open_gateway(settings, url, environ=environ)
        web = WebServer(gateway, max_files=1000)
        try:
            await web.start_control(control_path(url, environ))
            (public,) = await open_sockets(["127.0.0.1"], 0)
            await web.start([public])
            listening.set_result(public.getsockname()[1])
            await asyncio.to_thread(stopped.wait)
        finally:
            await web.close()
            await gateway.close()

    def request(self, method: str, target: str, **more: Any) -> Answer:
        """Ask the server that runs."""
        return self.wait(self._server.request(method, target, **more))

    def admin(self, method: str, *path: str, **members: object) -> Any:
        """Ask the server that runs over its control socket."""
        return self.wait(self._server.admin(method, *path, **members))

    def fill(self, keys: Sequence[Key], records: Sequence[UsageRecord] = ()) -> None:
        """Write into the database, while no server runs."""

        async def write() -> None:
            storage = await open_storage(f"sqlite://{self.database}")
            for key in keys:
                await storage.add_key(key)
            await asyncio.gather(*(storage.add_record(record) for record in records))
            await storage.close()

        self.wait(write())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(coroutine)

    def database_files(self) -> bytes:
        """The database, its write-ahead log and its shared memory, as they are on disk."""
        return self._server.database_files()


MakeWorkplace = Callable[..., Workplace]
