"""What goes wrong, in HTTP: one ladder from an exception to a problem, and what shows problems.

``problem_of`` says for every exception that has an answer which status, sentence and headers that
answer has. A renderer makes the answer: an error document of a dialect, ``problem+json``, or a
page (those are with the pages).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType

from aiohttp import web
from aiohttp.typedefs import Middleware

from opuslive.dialects import Dialect
from opuslive.errors import Code, OpusLiveError
from opuslive.web.answers import REQUEST_ID_KEY, Handler, close_unread, error_answer, json_answer

#: RFC 9457.
CONTENT_TYPE = "application/problem+json"

_CODES = MappingProxyType(
    {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.BODY_TOO_LARGE}
)


class HttpProblem(Exception):
    """Why a request is not served: the answer's status, one sentence, and its headers.

    ``code`` decides what type of error a dialect's document calls it.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: Mapping[str, str] | None = None,
        code: Code = Code.INVALID_REQUEST,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})
        self.code = code


#: Makes the answer to a problem.
Renderer = Callable[[web.Request, HttpProblem], web.Response]


def problem_of(error: HttpProblem | OpusLiveError | web.HTTPException) -> HttpProblem:
    """The ladder."""
    if isinstance(error, HttpProblem):
        return error
    if isinstance(error, OpusLiveError):
        wait = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return HttpProblem(error.code.status, error.message, wait, error.code)
    other = Code.INVALID_REQUEST if error.status < 500 else Code.INTERNAL
    code = _CODES.get(error.status, other)
    if isinstance(error, web.HTTPMethodNotAllowed):
        methods = set(error.allowed_methods)
        if "GET" in methods:
            methods.discard("HEAD")  # It goes without saying.
        sentence = f"This path takes {' and '.join(sorted(methods))} only."
        return HttpProblem(error.status, sentence, {"allow": error.headers["Allow"]}, code)
    if isinstance(error, web.HTTPNotFound):
        return HttpProblem(error.status, "This path is not served here.", code=code)
    return HttpProblem(error.status, f"{HTTPStatus(error.status).description}.", code=code)


#: What is a problem, and not a defect.
PROBLEMS = (HttpProblem, OpusLiveError, web.HTTPException)


def answer_to(
    request: web.Request, error: HttpProblem | OpusLiveError | web.HTTPException, render: Renderer
) -> web.Response:
    """The answer to a request whose handler raised the error."""
    if request.writer.output_size > 0:
        # The answer has begun and can't be completed: the connection is reset.
        raise ConnectionResetError from error
    return render(request, problem_of(error))


def answered(handler: Handler, render: Renderer) -> Handler:
    """The handler, whose problems are answered as well."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except PROBLEMS as error:
            return answer_to(request, error, render)

    return handle


def answering(render: Renderer) -> Middleware:
    """A middleware that answers the problems of all handlers that don't do so themselves."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except PROBLEMS as error:
            return answer_to(request, error, render)

    return answer


def dialect_document(dialect: Dialect) -> Renderer:
    """Renders problems as the clients of the dialect expect errors."""

    def render(request: web.Request, problem: HttpProblem) -> web.Response:
        error = OpusLiveError(problem.code, problem.sentence)
        answer = error_answer(request, error, dialect, problem.headers.items())
        # One code stands for several statuses that only HTTP itself has.
        answer.set_status(problem.status)
        return answer

    return render


def problem_document(request: web.Request, problem: HttpProblem) -> web.Response:
    """Renders a problem as ``application/problem+json``."""
    answer = json_answer(
        request,
        {
            "type": "about:blank",
            "title": HTTPStatus(problem.status).phrase,
            "status": problem.status,
            "detail": problem.sentence,
            "request_id": request[REQUEST_ID_KEY],
        },
        status=problem.status,
        content_type=CONTENT_TYPE,
    )
    answer.headers.update(problem.headers)
    close_unread(request, answer)
    return answer
