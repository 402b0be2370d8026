"""A server of a command's own, while none runs on the database."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from opuslive.bootstrap import open_gateway
from opuslive.config.files import Settings
from opuslive.errors import UsageError
from opuslive.ownership import check_file
from opuslive.web.app import control_app


@contextlib.asynccontextmanager
async def own_server(settings: Settings, url: str) -> AsyncIterator[Path]:
    """Open the database and serve commands on it. Yields the path of the socket.

    Raises DatabaseInUse if another process has the database, and OpusLiveError if it can't be
    opened.
    """
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
