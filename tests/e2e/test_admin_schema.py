"""The administration API keeps to its own document, whatever it is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import bcrypt
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from opuslive.web.admin.api import ROUTES
from opuslive.web.admin.openapi import document
from tests.support.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "the admin password"
#: Requests of each operation and kind. The same ones each time.
EXAMPLES = 25

#: Limits that contradict each other, a day that has passed, a glob with a space: what a schema
#: can't tell is refused all the same. And more wrong passwords than ten a minute are answered
#: with a 429; that there is no way in without the right one, test_admin_api shows.
EXCLUDED = [positive_data_acceptance, ignored_auth]


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "admin": {"password_hash": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}
    }


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(route.name, mode, id=f"{route.name} {mode.value}")
        for route in ROUTES
        for mode in GenerationMode
        # Without a value to give there is no wrong one.
        if mode is GenerationMode.POSITIVE or route.query or route.body
    ],
)
async def test_the_administrations_answers_are_as_its_openapi_describes(
    gateway: Server, name: str, mode: GenerationMode
) -> None:
    known = await gateway.admin("POST", "keys", name=f"for {name} {mode.value}")
    schema = schemathesis.openapi.from_dict(document(ROUTES))
    schema.config.update(base_url=f"http://127.0.0.1:{gateway.port}")
    schema.config.generation.update(with_security_parameters=False)
    operation = schema.find_operation_by_id(name)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), of_a_key=st.booleans())
    def ask(case: Case[Any], of_a_key: bool) -> None:
        if mode is GenerationMode.POSITIVE and of_a_key and case.path_parameters:
            case.path_parameters["id"] = known["id"]
        case.call_and_validate(auth=("admin", PASSWORD), excluded_checks=EXCLUDED)

    await asyncio.to_thread(ask)
