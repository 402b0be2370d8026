"""What commands have the server do to its database: backups, checks and compactions.

It may take minutes, so the answer is a line of JSON now and then: ``{"progress": 0.25}``, and last
``{"result": …}`` or ``{"problem": {"status", "detail"}}``. Whoever leaves before that line stops
the work. Only the control socket has these routes: a backup is written to a file of this machine,
which nobody is to choose from elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.storage import Maintenance, Progress
from opuslive.times import iso_ms
from opuslive.web.admin.openapi import ROOT
from opuslive.web.answers import request_id_headers
from opuslive.web.errors import problem_of

#: Seconds from one line to the next: so soon it is noticed that the client has left.
_INTERVAL = 0.1

_Work = Callable[[Mapping[str, Any], Progress], Awaitable[object]]
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MaintenanceHandlers:
    """``/admin/api/database`` on the control socket."""

    def __init__(self, maintenance: Maintenance, ending: Callable[[], bool]) -> None:
        """``ending``: whether the server was told to end, which does not wait for such work."""
        self._maintenance = maintenance
        self._ending = ending

    def routes(self) -> Sequence[web.RouteDef]:
        works = {"backup": self._back_up, "check": self._check, "compact": self._compact}
        return [
            web.post(f"{ROOT}/database/{name}", _reporting(work, self._ending))
            for name, work in works.items()
        ]

    async def _back_up(self, members: Mapping[str, Any], progress: Progress) -> object:
        file = members.get("file")
        if not isinstance(file, str):
            raise UsageError("'file' is the absolute path of the backup.")
        backup = await self._maintenance.back_up(
            Path(file), replace=members.get("force") is True, progress=progress
        )
        newest = backup.contents.newest
        return {
            "file": file,
            "bytes": backup.size,
            "keys": len(backup.contents.keys),
            "newest_record": None if newest is None else iso_ms(newest),
        }

    async def _check(self, members: Mapping[str, Any], progress: Progress) -> object:
        findings = await self._maintenance.check(
            quick=members.get("quick") is True, progress=progress
        )
        return {"ok": not findings, "findings": findings}

    async def _compact(self, members: Mapping[str, Any], progress: Progress) -> object:
        compaction = await self._maintenance.compact(progress)
        return {"bytes_before": compaction.before, "bytes_after": compaction.after}


def _reporting(work: _Work, ending: Callable[[], bool]) -> _Handler:
    """A handler that does this and tells how far it is, until it is done or the server ends."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            members = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
        except msgspec.MsgspecError:
            raise UsageError("The request's body has to be a JSON object.") from None
        response = web.StreamResponse(
            headers={**request_id_headers(request), "content-type": "application/x-ndjson"}
        )
        await response.prepare(request)
        done = 0.0

        def progress(part: float) -> None:
            nonlocal done
            done = part

        working = asyncio.ensure_future(work(members, progress))
        try:
            while not working.done():
                if ending():
                    await _write(response, _problem(_given_up()))
                    return response
                await asyncio.wait([working], timeout=_INTERVAL)
                await _write(response, {"progress": round(done, 3)})
            await _write(response, _outcome(working))
        except ConnectionError:
            return response  # The client has left.
        finally:
            working.cancel()
            await asyncio.wait([working])
        return response

    return handle


def _outcome(working: asyncio.Future[object]) -> object:
    error = working.exception()
    if error is None:
        return {"result": working.result()}
    if not isinstance(error, OpusLiveError):
        raise error
    return _problem(error)


def _problem(error: OpusLiveError) -> object:
    return {"problem": {"status": problem_of(error).status, "detail": error.message}}


def _given_up() -> OpusLiveError:
    return OpusLiveError(
        Code.OVERLOADED, "The server was told to end, so this was given up; run it again."
    )


async def _write(response: web.StreamResponse, line: object) -> None:
    await response.write(msgspec.json.encode(line) + b"\n")
