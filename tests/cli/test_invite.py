"""``opuslive keys create --invite`` and ``opuslive keys invite``."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import pytest

from tests.support.workplace import SERVED, UPSTREAM, MakeWorkplace, Workplace

pytestmark = SERVED

LINK = re.compile(r"https://ai\.example\.com/invite#[0-9A-Za-z]{32}")


@pytest.fixture
def workplace(make_workplace: MakeWorkplace) -> Workplace:
    return make_workplace(UPSTREAM, server={"public_url": "https://ai.example.com"})


def redeem(work: Workplace, link: str) -> tuple[int, str]:
    """What a program of the holder's does; the status, and the key if there is one."""
    body = json.dumps({"code": urlsplit(link).fragment}).encode()
    kind = [("content-type", "application/json")]
    answer = work.request("POST", "/invite", headers=kind, body=body)
    return answer.status, answer.json().get("key", "")


def test_a_key_is_handed_out_that_only_its_holder_sees(either_way: Workplace) -> None:
    work = either_way
    made = work.json("keys", "create", "alice", "--invite")
    assert LINK.fullmatch(made["link"])
    assert "key" not in made
    shown = work.json("keys", "show", "alice")
    assert (shown["state"], shown["id"]) == ("invited", made["id"])
    day = made["invitation_expires_at"][:10]
    assert f"invited until {day}" in work.run("keys", "show", "alice").out
    again = work.json("keys", "invite", "alice")
    assert LINK.fullmatch(again["link"])
    assert again["link"] != made["link"]
    back = work.json("keys", "invite", "alice", "--revoke")
    assert (back["state"], back["invitation_expires_at"]) == ("lapsed", None)
    assert "no invitation to call back" in work.run("keys", "invite", "alice", "--revoke").complaint
    code = urlsplit(again["link"]).fragment.encode()
    assert code not in work.database_files()


def test_the_link_is_printed_once_and_works_once(workplace: Workplace) -> None:
    with workplace.serving():
        made = workplace.run("keys", "create", "Zoë", "--invite")
        assert made.status == 0
        link, *rest = made.out.splitlines()
        assert LINK.fullmatch(link)
        assert "only time the link is shown" in made.out
        assert "'Zoë' is kept" in made.out
        assert all(len(line) <= 80 for line in rest)
        status, key = redeem(workplace, link)
        assert status == 200
        assert workplace.request("GET", "/v1/usage", key=key).status == 200
        assert redeem(workplace, link)[0] == 404
        invited = workplace.run("keys", "invite", "Zoë")
        assert all(len(line) <= 80 for line in invited.out.splitlines())
        assert "invitation until" in workplace.run("keys", "show", "Zoë").out
        revoked = workplace.run("keys", "invite", "Zoë", "--revoke")
        assert "called back" in revoked.out
        assert redeem(workplace, invited.out.splitlines()[0])[0] == 404


def test_without_an_address_the_remedy_is_named(make_workplace: MakeWorkplace) -> None:
    work = make_workplace()
    assert "set public_url in [server]" in work.run("keys", "create", "a", "--invite").complaint
    assert work.json("keys", "list") == []
