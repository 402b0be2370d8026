"""What the overview says of this moment, and the part of it that its script asks for."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.admin_pages import SECTIONS, WRONG, get, make, text_of
from tests.support.app import App
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return dict(SECTIONS)


async def test_the_part_is_that_of_the_page(gateway: App) -> None:
    """All but the moment: so the script may put one in the place of the other."""
    markup = r'<div id="live-now" data-live-part>.*?</section>\n</div>'
    shown = []
    for path in ("/admin", "/admin/live"):
        found = re.search(markup, (await get(gateway, path)).body.decode(), re.DOTALL)
        assert found is not None
        shown.append(re.sub(r"<time.*?</time>", "", found[0]))
    assert shown[0] == shown[1]


async def test_the_last_minute_and_its_busiest_keys_are_told(gateway: App) -> None:
    _, credential = await make(gateway, "busy now")
    assert (await gateway.messages(credential, message_body())).status == 200
    shown = text_of(await get(gateway, "/admin/live"))
    assert re.search(r"Requests in flight 0 Waiting for room 0 Requests, last minute [1-9]", shown)
    assert re.search(r"Busiest in the last minute: .*busy now \d+ tokens", shown)


async def test_refused_keys_are_counted_and_the_limits_named_that_refuse_them(
    gateway: App,
) -> None:
    before = text_of(await get(gateway, "/admin/live"))
    assert "refused now:" not in before
    key_id, credential = await make(gateway, "spent", limits="1 requests/day\n9 concurrent")
    await make(gateway, "expired", expires="1s")
    disabled, _ = await make(gateway, "disabled")
    await gateway.admin("PATCH", "keys", disabled, enabled=False)
    assert (await gateway.messages(credential, message_body())).status == 200
    answer = await get(gateway, "/admin/live")
    shown = text_of(answer)
    assert re.search(r"[23] of \d+ keys are refused now: 1 exhausted , 1 disabled", shown)
    assert "spent has used up 1 request a day." in shown
    assert "concurrent" not in shown
    for address in (f"/admin/keys/{key_id}", "/admin/keys?state=exhausted"):
        assert f'href="{address}"' in answer.body.decode()


async def test_a_script_whose_password_is_wrong_gets_no_dialog(gateway: App) -> None:
    for asked_for, auth, challenge in (
        ("empty", WRONG, "xBasic "),
        # The browser has the password, and sends it to other folders when it is asked.
        ("empty", None, "Basic "),
        ("document", WRONG, "Basic "),
        ("document", None, "Basic "),
    ):
        headers = [("Sec-Fetch-Dest", asked_for)]
        answer = await get(gateway, "/admin/live", auth=auth, headers=headers)
        assert answer.status == 401
        assert (answer.header("www-authenticate") or "").startswith(challenge)
