"""Who is let in to administer, and how guessing is slowed down."""

from __future__ import annotations

import asyncio
import base64
import unicodedata
from collections.abc import Mapping
from typing import Literal

import bcrypt
import pytest
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from opuslive.administration.password import hash_password
from opuslive.config.in_force import ConfigInForce
from opuslive.config.sections import AdminConfig, Config, ServerConfig
from opuslive.errors import UsageError
from opuslive.web.admin.gate import AccessDenied, AdminGate
from opuslive.web.http.guesses import MINUTE_MS
from tests.support.clock import NOW, Machine

PASSWORD = "correct horse: battery"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


def _config(password_hash: str | None, public_url: str | None = None) -> Config:
    return Config(
        admin=AdminConfig(password_hash=password_hash), server=ServerConfig(public_url=public_url)
    )


class Admin:
    """A gate at a time of the test's own, and what comes of asking it."""

    def __init__(self, password_hash: str | None = HASH, public_url: str | None = None) -> None:
        self.machine = Machine()
        self.in_force = ConfigInForce(_config(password_hash, public_url), NOW)
        self.gate = AdminGate(self.in_force, self.machine.clock.elapsed_ms, 0.0)

    async def ask(
        self,
        password: str | bytes | None = PASSWORD,
        user: str = "admin",
        method: str = "GET",
        **headers: str,
    ) -> tuple[int, Mapping[str, str]]:
        """The status, 200 for whoever is let in, and the headers of a refusal."""
        sent = CIMultiDict(
            {"Host": "gateway.test:8080"}
            | {name.replace("_", "-"): value for name, value in headers.items()}
        )
        if password is not None:
            sent.setdefault("Authorization", basic(password, user))
        request = make_mocked_request(method, "/", sent, payload=StreamReader.__new__(StreamReader))
        try:
            await self.gate.admit(request)
        except AccessDenied as denied:
            return denied.status, denied.headers
        return 200, {}

    async def status(self, *arguments: str | bytes | None, **headers: str) -> int:
        return (await self.ask(*arguments, **headers))[0]  # type: ignore[arg-type]


def basic(password: str | bytes, user: str = "admin") -> str:
    encoded = password.encode() if isinstance(password, str) else password
    return "Basic " + base64.b64encode(user.encode() + b":" + encoded).decode()


async def test_the_right_password_is_let_in() -> None:
    admin = Admin()
    assert [await admin.status() for _ in range(3)] == [200] * 3


async def test_a_new_password_takes_the_place_of_the_one_that_was_proven() -> None:
    admin = Admin()
    assert await admin.status() == 200
    assert await admin.status("another one") == 401
    new = bcrypt.hashpw(b"another one", bcrypt.gensalt(4)).decode()
    admin.in_force.use(_config(new), NOW)
    assert [await admin.status(), await admin.status("another one")] == [401, 200]


async def test_what_waits_while_the_password_changes_is_judged_by_the_new_one() -> None:
    admin = Admin()
    asking = [asyncio.create_task(admin.status(word)) for word in (PASSWORD, "another one")]
    await asyncio.sleep(0)  # They wait for their proofs.
    new = bcrypt.hashpw(b"another one", bcrypt.gensalt(4)).decode()
    admin.in_force.use(_config(new), NOW)
    assert await admin.status("another one") == 200
    assert await asking[0] == 401
    # It was judged by the old one, and may be tried again.
    assert await asking[1] == 401
    assert await admin.status(PASSWORD) == 401


@pytest.mark.parametrize(
    "password",
    ["", "wrong", PASSWORD + " ", PASSWORD * 4, "x" * 10_000, b"\xff\x00", PASSWORD + "\0"],
)
async def test_a_wrong_password_is_asked_for_again(password: str | bytes) -> None:
    status, headers = await Admin().ask(password)
    assert status == 401
    assert headers["www-authenticate"].startswith("Basic realm=")


async def test_another_user_is_not_let_in() -> None:
    assert await Admin().status(PASSWORD, "root") == 401


@pytest.mark.parametrize(
    "value",
    ["", "Basic", "Basic ", "Basic é", "Basic !!!", "Basic YWRtaW4=", "Bearer abc", "Basic =" * 99],
)
async def test_what_are_no_credentials_counts_as_no_guess(value: str) -> None:
    admin = Admin()
    for _ in range(20):
        status, headers = await admin.ask(None, Authorization=value)
        assert (status, "www-authenticate" in headers) == (401, True)


async def test_there_is_no_administration_without_a_password_set() -> None:
    assert await Admin(None).status() == 404


async def test_a_hash_that_is_damaged_lets_nobody_in() -> None:
    assert await Admin("$2b$04$" + "." * 53).status() == 401


class TestSpelling:
    """A password is the same in every spelling that a keyboard or a browser may give it.

    A fault of this kind is any difference between the bytes that were hashed and those that come:
    composed or decomposed letters (accents, Hangul, several marks in another order), latin-1 for
    UTF-8, and limits of lengths that count the longer spelling.
    """

    #: 8 characters and 72 bytes at the most, composed; decomposed some have three times as many.
    PASSWORDS = (
        "Schlüssel",
        "Ångström",
        "correct hörse: bättery",
        "한국어비밀번호하나",
        "한" * 24,
        "q\u0323\u0307 and more",
        "\u0390" * 36,
    )

    @staticmethod
    def hashed(password: str) -> str:
        return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()

    @pytest.mark.parametrize("password", PASSWORDS)
    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    async def test_composed_and_decomposed_are_let_in(
        self, password: str, form: Literal["NFC", "NFD"]
    ) -> None:
        admin = Admin(self.hashed(unicodedata.normalize("NFC", password)))
        assert await admin.status(unicodedata.normalize(form, password)) == 200
        assert await admin.status(unicodedata.normalize(form, password)[:-1]) == 401

    async def test_a_new_password_lets_in_as_it_was_typed(self) -> None:
        typed = unicodedata.normalize("NFD", "Schlüssel")
        assert await Admin(hash_password(typed)).status(typed) == 200

    async def test_latin_1_is_let_in(self) -> None:
        admin = Admin(self.hashed("Schlüssel"))
        assert await admin.status("Schlüssel".encode("latin-1")) == 200
        assert await admin.status("Schlussel".encode("latin-1")) == 401
        assert await admin.status(b"Schl\xff\xfessel") == 401

    @pytest.mark.parametrize("raw", ["Schlu\u0308ssel".encode(), "Schlüssel".encode("latin-1")])
    async def test_the_bytes_that_another_program_hashed_are_let_in(self, raw: bytes) -> None:
        admin = Admin(bcrypt.hashpw(raw, bcrypt.gensalt(4)).decode())
        assert await admin.status(raw) == 200

    async def test_who_was_let_in_goes_on_in_another_spelling_while_guesses_are_refused(
        self,
    ) -> None:
        admin = Admin(self.hashed("Schlüssel"))
        assert await admin.status("Schlu\u0308ssel") == 200
        for _ in range(20):
            await admin.status("wrong")
        assert await admin.status("wrong") == 429
        assert await admin.status("Schlüssel") == 200
        assert await admin.status("Schlüssel".encode("latin-1")) == 200
        assert await admin.status("Schlu\u0308ssel") == 200

    async def test_a_wrong_guess_counts_once_in_whatever_spelling(self) -> None:
        admin = Admin(self.hashed("Schlüssel"))
        guesses = [f"gue\u0301ss {number}" for number in range(11)]
        assert [await admin.status(guess) for guess in guesses] == [401] * 10 + [429]


class TestGuessing:
    async def test_is_refused_for_a_minute_after_ten(self) -> None:
        admin = Admin()
        assert [await admin.status(f"guess {n}") for n in range(10)] == [401] * 10
        status, headers = await admin.ask("guess 11")
        assert (status, headers["retry-after"]) == (429, "60")
        admin.machine.elapsed += MINUTE_MS - 1
        assert (await admin.ask("guess"))[1]["retry-after"] == "1"
        admin.machine.elapsed += 1
        assert await admin.status("guess") == 401
        assert await admin.status() == 200

    async def test_does_not_stop_the_right_password_that_was_not_proven_before(self) -> None:
        """All come from one address here, as they do through a reverse proxy."""
        admin = Admin()
        for number in range(20):
            await admin.status(f"guess {number}")
        statuses = await asyncio.gather(
            *(admin.status(f"guess {20 + number}") for number in range(24)), admin.status()
        )
        assert statuses == [429] * 24 + [200]

    async def test_does_not_stop_who_has_proven_the_password(self) -> None:
        admin = Admin()
        assert await admin.status() == 200
        for _ in range(20):
            await admin.status("wrong")
        assert await admin.status("wrong") == 429
        assert await admin.status() == 200

    async def test_slow_guesses_are_not_refused(self) -> None:
        admin = Admin()
        for _ in range(30):
            assert await admin.status("wrong") == 401
            admin.machine.elapsed += MINUTE_MS // 9 + 1

    async def test_guesses_all_at_once_get_no_further(self) -> None:
        admin = Admin()
        statuses = await asyncio.gather(*(admin.status(f"guess {n}") for n in range(50)))
        assert sorted(statuses) == [401] * 10 + [429] * 40

    async def test_counts_when_nobody_waits_for_the_answer(self) -> None:
        admin = Admin()
        for number in range(10):
            asking = asyncio.ensure_future(admin.status(f"guess {number}"))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        while await admin.status("one more") != 429 or (
            (await admin.ask("one more"))[1]["retry-after"] != "60"
        ):
            await asyncio.sleep(0.001)


async def test_requests_with_the_same_password_share_one_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proofs = []
    check = bcrypt.checkpw

    def counted(password: bytes, password_hash: bytes) -> bool:
        proofs.append(password)
        return check(password, password_hash)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    admin = Admin()
    assert set(await asyncio.gather(*(admin.status() for _ in range(30)))) == {200}
    assert await admin.status() == 200
    assert len(proofs) == 1


#: Headers of a request that changes something, and whether it may.
CHANGES = [
    ({}, True),
    ({"Sec_Fetch_Site": "same-origin", "Origin": "http://gateway.test:8080"}, True),
    ({"Sec_Fetch_Site": "none"}, True),
    ({"Origin": "https://ai.example.com"}, True),
    ({"Origin": "https://ai.example.com:443"}, True),
    ({"Origin": "http://GATEWAY.test:8080"}, True),
    ({"Host": "ai.example.net", "Origin": "https://ai.example.net"}, True),
    ({"Sec_Fetch_Site": "cross-site"}, False),
    ({"Sec_Fetch_Site": "same-site"}, False),
    ({"Sec_Fetch_Site": "cross-site", "Origin": "http://gateway.test:8080"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": ""}, False),
    ({"Origin": "http://gateway.test"}, False),
    ({"Origin": "http://gateway.test:9"}, False),
    ({"Origin": "http://gateway.test:8080.evil.example"}, False),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "http://[gateway.test:8080"}, False),
    ({"Origin": "https://ai.example.com.evil.example"}, False),
]


@pytest.mark.parametrize(("headers", "allowed"), CHANGES)
async def test_another_site_can_change_nothing(headers: dict[str, str], allowed: bool) -> None:
    admin = Admin(public_url="https://ai.example.com/gateway")
    for method in ("POST", "PATCH", "DELETE", "PUT"):
        assert await admin.status(PASSWORD, "admin", method, **headers) == (200 if allowed else 403)
    # Reading changes nothing, and another site can't see the answer.
    assert await admin.status(**headers) == 200


async def test_another_site_can_not_use_up_the_guesses() -> None:
    admin = Admin()
    for _ in range(20):
        assert await admin.status("wrong", "admin", "POST", Origin="https://evil.example") == 403
    assert await admin.status() == 200


class TestHashing:
    def test_proves_the_password(self) -> None:
        hashed = hash_password(PASSWORD)
        assert hashed.startswith("$2b$12$")
        assert bcrypt.checkpw(PASSWORD.encode(), hashed.encode())

    def test_composed_and_decomposed_letters_are_the_same(self) -> None:
        hashed = hash_password("Schlu\u0308ssel")
        assert bcrypt.checkpw("Schl\u00fcssel".encode(), hashed.encode())

    @pytest.mark.parametrize(
        "password",
        ["", "seven 7", "e\u0301" * 7, "x" * 73, "é" * 37, "e\u0301" * 37, "tab\tin it"],
    )
    def test_what_can_be_no_password_is_refused_unshown(self, password: str) -> None:
        with pytest.raises(UsageError) as raised:
            hash_password(password)
        assert not password or password not in raised.value.message
