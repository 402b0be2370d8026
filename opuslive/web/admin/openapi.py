"""The OpenAPI 3.1 document of the administration API, built from a table of its operations."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from opuslive.web.admin.schemas import PARAMETERS, SCHEMAS, Schema, ref
from opuslive.web.errors import CONTENT_TYPE

ROOT = "/admin/api"

#: What may go wrong with any operation, and is said with a problem.
_ALWAYS = {
    400: "A value is not right; the detail says what would be.",
    401: "There are no credentials, or wrong ones.",
    404: "There is no such key, or no admin password is set.",
    429: "Too many wrong passwords were tried.",
    503: "The database can't be reached at the moment.",
}
_CHANGING = {
    403: "A page of another site asked for it.",
    408: "The body did not arrive in time.",
    409: "The name is taken.",
    413: "The body is too large.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table. ``answer`` and ``body`` are names of schemas."""

    name: str
    method: str
    path: str
    summary: str
    answer: str
    status: int = 200
    body: str | None = None
    body_required: bool = True
    query: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return self.method != "GET"


OPERATIONS = (
    Operation(
        "listKeys",
        "GET",
        "/keys",
        "All keys, oldest first, with what they have used so far.",
        "KeyPage",
        query=("limit", "after"),
    ),
    Operation(
        "createKey",
        "POST",
        "/keys",
        "Make a key. Its secret is in this answer and never again.",
        "KeyWithSecret",
        status=201,
        body="NewKey",
    ),
    Operation("showKey", "GET", "/keys/{id}", "One key and what it has used.", "KeyWithUsage"),
    Operation(
        "updateKey",
        "PATCH",
        "/keys/{id}",
        "Change a key. What is not named stays as it is.",
        "KeyWithUsage",
        body="KeyChanges",
    ),
    Operation(
        "deleteKey",
        "DELETE",
        "/keys/{id}",
        "Cut the key's running requests and erase everything held about it.",
        "ErasedKey",
    ),
    Operation(
        "rotateKey",
        "POST",
        "/keys/{id}/rotate",
        "Give the key a new secret; its id, limits and history stay.",
        "KeyWithSecret",
        body="Rotation",
        body_required=False,
    ),
    Operation(
        "usage",
        "GET",
        "/usage",
        "What was used, of all keys or one: totals, and a series.",
        "UsageReport",
        query=("since", "by", "key"),
    ),
    Operation("status", "GET", "/status", "How the server is.", "Status"),
    Operation("openapi", "GET", "/openapi.json", "This document.", "Document"),
)


def version() -> str:
    return importlib.metadata.version("opuslive")


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        item = paths.setdefault(ROOT + operation.path, {})
        item[operation.method.lower()] = _described(operation)
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


def _described(operation: Operation) -> dict[str, Any]:
    problems = _ALWAYS | (_CHANGING if operation.changes else {})
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            str(operation.status): {
                "description": operation.summary,
                "content": _content(operation.answer),
            }
        }
        | {str(status): _problem(status, why) for status, why in sorted(problems.items())},
    }
    parameters = (["id"] if "{id}" in operation.path else []) + [
        f"{name}-query" for name in operation.query
    ]
    if parameters:
        described["parameters"] = [
            {"$ref": f"#/components/parameters/{name}"} for name in parameters
        ]
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": _content(operation.body),
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
