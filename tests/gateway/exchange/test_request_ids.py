"""What an operator can look up: the gateway's id of a request, and the provider's.

The kind: each answer that names an id of its own (an error in its body, any answer in its head).
Nothing but an id may come into the log that way: not what has another form or length, not what the
client itself sent and the provider sends back, and nothing above the level "debug".
"""

from __future__ import annotations

import logging

import pytest

from opuslive.errors import OpusLiveError
from tests.support.listener import Listener, answer
from tests.support.rig import COUNTING, MESSAGE, Caller, Rig
from tests.support.waiting import soon

OURS = "req_of_the_caller"
THEIRS = b"req_011CVqN-theirs_1"


async def told(
    rig: Rig,
    listener: Listener,
    caplog: pytest.LogCaptureFixture,
    *headers: bytes,
    status: int = 200,
    caller: Caller | None = None,
) -> list[str]:
    """The lines that tell the provider's id of a request that is answered like this."""
    rig.upstream(listener.port)
    serving = rig.serve(caller or rig.caller())
    (await rig.arrived(listener)).send(answer(MESSAGE, *headers, status=status))
    try:
        await soon(serving)
    except OpusLiveError:
        assert status == 429
    return [line for line in caplog.messages if "its own id" in line]


@pytest.mark.parametrize("status", [200, 400, 404, 413, 429, 500, 529])
async def test_a_debug_line_ties_the_providers_id_to_the_gateways(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG, "opuslive")
    header = b"Request-Id: " + THEIRS
    assert await told(rig, listener, caplog, header, status=status) == [
        f"upstream upstream 0 answered the request {OURS} with status {status}; "
        f"its own id of it is {THEIRS.decode()}"
    ]


async def test_a_request_that_is_not_metered_has_it_too(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "opuslive")
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller(), COUNTING)
    (await rig.arrived(listener)).send(answer(MESSAGE, b"request-id: " + THEIRS))
    await soon(serving)
    assert any(OURS in line and THEIRS.decode() in line for line in caplog.messages)


@pytest.mark.parametrize(
    "value",
    [b"", b"a b", b"req;1", b"req.1", b"req/1", b"a" * 65, b"req_\xff", "é".encode(), b"a@b.c"],
)
async def test_what_is_no_id_is_not_told(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    caplog.set_level(logging.DEBUG, "opuslive")
    assert await told(rig, listener, caplog, b"request-id: " + value) == []


async def test_an_id_may_have_64_characters(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "opuslive")
    assert len(await told(rig, listener, caplog, b"request-id: " + b"a" * 64)) == 1


@pytest.mark.parametrize("name", [b"x-request-id", b"cf-ray", b"x-id"])
async def test_no_other_header_of_the_upstream_is_told_as_request_id(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture, name: bytes
) -> None:
    caplog.set_level(logging.DEBUG, "opuslive")
    assert await told(rig, listener, caplog, name + b": " + THEIRS) == []


async def test_what_the_client_sent_itself_is_not_told(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "opuslive")
    caller = rig.caller()
    caller.headers = [(b"X-Client-Request-Id", b"Erika-Mustermann")]
    header = b"request-id: Erika-Mustermann"
    assert await told(rig, listener, caplog, header, status=400, caller=caller) == []


async def test_the_providers_id_is_told_at_debug_alone(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive")
    header = b"request-id: " + THEIRS
    assert await told(rig, listener, caplog, header, status=529) == []


async def test_the_body_goes_on_as_it_came(rig: Rig, listener: Listener) -> None:
    rig.upstream(listener.port)
    caller = rig.caller()
    serving = rig.serve(caller)
    body = b'{"type":"error","error":{"type":"api_error"},  "request_id":"' + THEIRS + b'"}'
    sent = answer(body, b"request-id: " + THEIRS, status=500)
    (await rig.arrived(listener)).send(sent)
    await soon(serving)
    assert caller.written == body


async def test_the_access_line_has_the_gateways_id_and_the_record_has_not(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive.access")
    await told(rig, listener, caplog, b"request-id: " + THEIRS, status=500)
    (line,) = [line for line in caplog.records if line.name == "opuslive.access"]
    fields = vars(line)["fields"]
    record = await rig.record()
    assert list(fields)[:2] == ["request_id", "key"]
    assert (fields["request_id"], fields["key"]) == (OURS, record.key_id)
    assert fields["status"] == 500
    assert OURS not in repr(record)
    assert THEIRS.decode() not in repr(fields)


async def test_a_refusal_has_an_access_line_too(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opuslive.access")
    rig.upstream(listener.port)
    with pytest.raises(OpusLiveError):
        await rig.serve(rig.caller(b"no JSON"))
    (line,) = caplog.records
    assert vars(line)["fields"]["request_id"] == OURS
