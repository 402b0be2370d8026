"""How many fields a form may have: its own, and a few that somebody else puts in."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from opuslive.errors import OpusLiveError
from opuslive.web.admin.key_form import FIELDS
from opuslive.web.pages.forms import MAX_OTHER_FIELDS, read_form


@pytest.mark.parametrize("own", [(), ("key",), FIELDS, tuple(f"field{n}" for n in range(40))])
async def test_all_of_its_own_fields_are_read_and_a_few_others_left_out(
    aiohttp_client: AiohttpClient, own: tuple[str, ...]
) -> None:
    async def handler(request: web.Request) -> web.Response:
        try:
            return web.json_response(dict(await read_form(request, own)))
        except OpusLiveError as error:
            return web.Response(status=error.code.status)

    app = web.Application()
    app.router.add_post("/", handler)
    client = await aiohttp_client(app)
    others = [(f"other{number}", "x") for number in range(MAX_OTHER_FIELDS)]
    form = {name: f"{name}!" for name in own}
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await client.post("/", data=urlencode([*others, *form.items()]), headers=headers)
    assert await answer.json() == form
    too_many = urlencode([*others, *form.items(), ("one more", "x")])
    assert (await client.post("/", data=too_many, headers=headers)).status == 400
