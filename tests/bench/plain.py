"""A plain proxy with aiohttp on uvloop, as one would write it: ``python -m tests.bench.plain PORT
ORIGIN``. It keeps nothing, checks nothing, and counts nothing."""

from __future__ import annotations

import sys

import aiohttp
import uvloop
from aiohttp import web

_OWN = {"host", "content-length", "connection", "transfer-encoding"}
_SESSION = web.AppKey("session", aiohttp.ClientSession)


def _app(origin: int) -> web.Application:
    app = web.Application(client_max_size=2**30)

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name not in _OWN}
        async with request.app[_SESSION].request(
            request.method,
            f"http://127.0.0.1:{origin}{request.rel_url}",
            data=await request.read(),
            headers=headers,
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            response.content_length = answer.content_length
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def begin(app: web.Application) -> None:
        app[_SESSION] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    app.on_startup.append(begin)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(_app(int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), print=None)
