"""Errors of the administration, as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from opuslive.errors import OpusLiveError
from opuslive.web.answers import REQUEST_ID, json_answer

CONTENT_TYPE = "application/problem+json"


class Refused(Exception):
    """A request that HTTP itself has the answer to, such as 401, with that answer's headers."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


@web.middleware
async def problems(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer what a handler raises with a problem."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except OpusLiveError as error:
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return _problem(request, error.code.status, error.message, headers)
    except Refused as error:
        return _problem(request, error.status, error.detail, error.headers)
    except web.HTTPMethodNotAllowed as error:
        detail = f"This path takes {' and '.join(sorted(error.allowed_methods))} only."
        return _problem(request, error.status, detail, {"allow": error.headers["Allow"]})
    except web.HTTPNotFound as error:
        detail = "This path is not served; /admin/api/openapi.json describes those that are."
        return _problem(request, error.status, detail)
    except web.HTTPException as error:
        return _problem(request, error.status, f"{HTTPStatus(error.status).description}.")


def _problem(
    request: web.Request, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    answer = json_answer(
        request,
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "request_id": request[REQUEST_ID[0]],
        },
        status=status,
        content_type=CONTENT_TYPE,
    )
    answer.headers.update(headers or {})
    if not request.content.is_eof():
        # The rest of the body is of no use to anyone: read a little of it, then close.
        answer.force_close()
    return answer
