"""The OpenAPI 3.1 document of the administration API, made of the table of its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from opuslive.administration.status import version
from opuslive.web.admin.schemas import PARAMETERS, SCHEMAS, Schema, ref
from opuslive.web.errors import CONTENT_TYPE

ROOT = "/admin/api"

#: What may go wrong with any operation, and is said with a problem.
_ALWAYS = MappingProxyType(
    {
        400: "A value is not right; the detail says what would be.",
        401: "There are no credentials, or wrong ones.",
        404: "There is no such key, or no admin password is set.",
        429: "Too many wrong passwords were tried.",
        503: "The database can't be reached at the moment.",
    }
)
_CHANGING = MappingProxyType(
    {
        403: "A page of another site asked for it.",
        408: "The body did not arrive in time.",
        409: "The name is taken.",
        413: "The body is too large.",
    }
)


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """A route of the API, and what its description says. ``path`` is that below ``ROOT``.

    ``handler`` is a method of ``AdminHandlers``: it takes the request, and the members of the
    body if there is to be one; it returns what is answered as JSON. ``answer`` and ``body`` are
    names of schemas, ``query`` are the names of the parameters that the route takes, ``several``
    those of them that may be there more than once. A handler of a route with other
    ``content_types`` than JSON returns the whole response.
    """

    name: str
    method: str
    path: str
    handler: Callable[..., Awaitable[object]]
    summary: str
    answer: str
    status: int = 200
    body: str | None = None
    body_required: bool = True
    query: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    content_types: tuple[str, ...] = ("application/json",)

    @property
    def changes(self) -> bool:
        return self.method != "GET"


def document(routes: Iterable[AdminRoute]) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        item = paths.setdefault(ROOT + route.path, {})
        item[route.method.lower()] = _described(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpusLive administration",
            "version": version(),
            "description": "Keys, usage and status of an OpusLive gateway. Times are UTC.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"password": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "parameters": PARAMETERS,
            "securitySchemes": {
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The user name is admin.",
                }
            },
        },
    }


def _described(route: AdminRoute) -> dict[str, Any]:
    problems = _ALWAYS | (_CHANGING if route.changes else {})
    described: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            str(route.status): {
                "description": route.summary,
                "content": {
                    name: schema
                    for content_type in route.content_types
                    for name, schema in _content(route.answer, content_type).items()
                },
            }
        }
        | {str(status): _problem(status, why) for status, why in sorted(problems.items())},
    }
    parameters = (["id"] if "{id}" in route.path else []) + [
        f"{name}-query" for name in route.query
    ]
    if parameters:
        described["parameters"] = [
            {"$ref": f"#/components/parameters/{name}"} for name in parameters
        ]
    if route.body is not None:
        described["requestBody"] = {
            "required": route.body_required,
            "content": _content(route.body),
        }
    return described


def _content(schema: str, content_type: str = "application/json") -> Schema:
    return {content_type: {"schema": ref(schema)}}


def _problem(status: int, why: str) -> Schema:
    answer: dict[str, Any] = {"description": why, "content": _content("Problem", CONTENT_TYPE)}
    header = {401: "WWW-Authenticate", 429: "Retry-After"}.get(status)
    if header is not None:
        answer["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return answer
