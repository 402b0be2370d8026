"""The names of aiohttp's that the web layer relies on without their being public."""

from __future__ import annotations

import inspect

import pytest
from aiohttp import web

NAMES = (
    "_buffer_paused",
    "_close",
    "_current_request",
    "_force_close",
    "_keepalive_handle",
    "_messages",
    "_request_count",
    "_task_handler",
    "_upgraded",
    "_waiter",
)
METHODS = ("_process_keepalive", "_resume_reading_for_buffer")


@pytest.mark.parametrize("name", NAMES)
def test_an_attribute_of_aiohttp_is_still_there(name: str) -> None:
    assert any(name in getattr(kind, "__slots__", ()) for kind in web.RequestHandler.__mro__)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_aiohttp_is_still_there(name: str) -> None:
    assert inspect.isfunction(getattr(web.RequestHandler, name))


def test_an_answer_of_aiohttps_has_a_switch_for_sending_its_head_at_once() -> None:
    assert web.StreamResponse._send_headers_immediately


def test_aiohttps_queue_holds_pairs_of_a_message_and_its_payload() -> None:
    source = inspect.getsource(web.RequestHandler.start)
    assert "message, payload = self._messages.popleft()" in source
