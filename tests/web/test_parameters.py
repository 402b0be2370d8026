"""What is said of a parameter that a path does not know, or that is there twice."""

from __future__ import annotations

import pytest

from opuslive.administration.keys import KeyChanges
from opuslive.config.sections import AdminConfig, Config
from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import OpenApp

CONFIG = Config(admin=AdminConfig(password_hash=HASH))
SECRET = "sk-ant-ol-abcdefgh-0123456789"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/v1/usage?sicne=1d", "There is no parameter 'sicne'; did you mean 'since'?"),
        ("/v1/usage?by=day&x=1", "There is no parameter 'x'; known are since, until, by, compare."),
        ("/v1/usage?by=day&by=hour", "The parameter 'by' is there twice."),
        ("/v1/usage?by=week", "'by' is one of: day, hour, model, status."),
        ("/v1/usage?since=1d&until=2d", "'until' has to be later than 'since'."),
        ("/v1/usage?since=2999-01-01", "'since' lies in the future."),
        ("/v1/usage?compare=yes", "'compare' is one of: true, false."),
        ("/admin/api/trouble?limit=0", "'limit' is a number from 1 to 1000."),
        ("/v1/usage/export?since=1d", "There is no parameter 'since'; known are format."),
        ("/v1/usage/export?format=csv&format=csv", "The parameter 'format' is there twice."),
        ("/admin/api/usage?sicne=1d", "There is no parameter 'sicne'; did you mean 'since'?"),
        ("/admin/api/usage?by=day&by=day", "The parameter 'by' is there twice."),
        ("/admin/api/keys?page=2", "There is no parameter 'page'; known are limit, after, group."),
        ("/admin/api/status?full=1", "There is no parameter 'full'; this path takes none."),
        (
            f"/v1/usage?{SECRET}",
            "There is no parameter of this name; known are since, until, by, compare.",
        ),
    ],
)
async def test_an_unknown_parameter_is_refused_with_a_sentence(
    open_app: OpenApp, target: str, says: str
) -> None:
    gateway, client = await open_app(CONFIG)
    _, credential = await gateway.administration.create(KeyChanges(name="alice"))
    holder = {"x-api-key": credential}
    headers = {"Authorization": RIGHT} if target.startswith("/admin") else holder
    answer = await client.get(target, headers=headers)
    document = await answer.json(content_type=None)
    assert answer.status == 400
    assert (document.get("detail") or document["error"]["message"]) == says


async def test_nobody_is_told_of_parameters_without_a_key(open_app: OpenApp) -> None:
    _, client = await open_app(CONFIG)
    assert (await client.get("/v1/usage?x=1")).status == 401
    assert (await client.get("/admin/api/status?x=1")).status == 401
