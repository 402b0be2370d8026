"""The id in an answer's head is the one by which the access line is found."""

from __future__ import annotations

import logging

import pytest

from tests.support.app import App
from tests.support.provider import ScriptedUpstream, json_answer
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_answers_id_is_that_of_its_access_line(
    gateway: App, upstream: ScriptedUpstream, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive.access")
    error = {"type": "error", "error": {"type": "api_error"}, "request_id": "req_theirs"}
    upstream.will(json_answer(error, status=500, headers=[("request-id", "req_theirs")]))
    failed = await gateway.messages(key, message_body())
    served = await gateway.messages(key, message_body())
    refused = await gateway.messages(key, b"no JSON")
    assert failed.json() == error
    ids = [answer.header("request-id") for answer in (failed, served, refused)]
    assert len(set(ids)) == 3
    lines = [vars(record)["fields"] for record in caplog.records if record.name.endswith("access")]
    assert [(line["request_id"], line["status"]) for line in lines] == list(
        zip(ids, (500, 200, 400), strict=True)
    )
