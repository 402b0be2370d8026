"""The document of the administration API says what there is, no more and no less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opuslive.bootstrap import open_gateway
from opuslive.config.files import Settings
from opuslive.config.sections import Config
from opuslive.web.admin.api import ROUTES
from opuslive.web.admin.openapi import document
from opuslive.web.app import control_app

#: What is served over the control socket, and not over HTTP.
SOCKET_ALONE = "/admin/api/database/"


async def test_every_route_has_an_operation_and_every_operation_a_route(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/opuslive.db"
    gateway = await open_gateway(Settings(Config()), url, environ={}, serving=False)
    try:
        routes = [
            (route.method, route.resource.canonical)
            for route in control_app(gateway).router.routes()
            if route.resource is not None and not route.resource.canonical.startswith(SOCKET_ALONE)
        ]
    finally:
        await gateway.close()
    described = [
        (method.upper(), path)
        for path, item in document(ROUTES)["paths"].items()
        for method in item
    ]
    assert sorted(routes) == sorted(described)


def test_names_of_routes_are_unique() -> None:
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_every_operation_needs_the_password_and_names_its_problems() -> None:
    described = document(ROUTES)
    assert described["security"] == [{"password": []}]
    for item in described["paths"].values():
        for operation in item.values():
            assert "security" not in operation
            for status, answer in operation["responses"].items():
                problem = "application/problem+json" in answer["content"]
                assert problem == (int(status) >= 400)
                assert not problem or len(answer["content"]) == 1


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    described = document(ROUTES)
    references = set(_references(described))
    components = described["components"]
    assert references == {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "parameters")
        for name in components[kind]
    }


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [each for value in node.values() for each in _references(value)]
    if isinstance(node, list):
        return [each for value in node for each in _references(value)]
    return []
