"""From a credential to a proven key, and never to anything else than that or a refusal."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.holder import Holder, Holders
from opuslive.gateway.prover import MAX_GUESSES, MS_PER_GUESS, Prover
from opuslive.keys import Key, display_prefix, hash_credential, new_credential
from tests.support.clock import NOW, Machine
from tests.support.waiting import PATIENCE, eventually, turns

CHECKSUM_KEY = b"k" * 32
PREFIX = "sk-ant-ol-"
HOUR = 3_600_000


def credential(key_id: str = "key00001", checksum_key: bytes = CHECKSUM_KEY) -> str:
    return new_credential(PREFIX, key_id, checksum_key)


FIRST, SECOND, OTHER, UNKNOWN = credential(), credential(), credential("key00002"), credential()
KEY = Key("key00001", "first", display_prefix(PREFIX, "key00001"), NOW, hash_credential(FIRST))
OTHER_KEY = replace(KEY, id="key00002", name="other", secret_hash=hash_credential(OTHER))


@pytest.fixture
def machine() -> Machine:
    return Machine()


class SlowProver(Prover):
    """A prover that writes down whose proofs it is asked to run, and that a test can hold up."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.clock.elapsed_ms)
        #: Ids of the keys whose proofs were run, in their order.
        self.run: list[str] = []
        self._go = threading.Event()
        self._go.set()

    async def matching(
        self, holder: Holder, credential: str, hashes: Sequence[bytes]
    ) -> bytes | None:
        found = await super().matching(holder, credential, hashes)
        self.run.append(holder.key.id)
        return found

    def hold(self) -> None:
        """Let no proof end before ``go_on``."""
        self._go.clear()
        self._worker.submit(self._go.wait)

    def go_on(self) -> None:
        self._go.set()


class Gate(Authenticator):
    """An authenticator with the keys that a test puts there; it answers with keys."""

    def __init__(self, checksum_key: bytes, machine: Machine, *keys: Key) -> None:
        self.holders = Holders(Holder(key, NOW) for key in keys)
        self.prover = SlowProver(machine)
        wall_ms = machine.clock.wall_ms
        super().__init__(self.holders, checksum_key, self.prover, wall_ms, "ops@example.com")

    def put(self, key: Key) -> None:
        holder = self.holders.get(key.id)
        if holder is None:
            self.holders.add(Holder(key, NOW))
        else:
            self.holders.change(holder, key)

    def remove(self, key_id: str) -> None:
        self.holders.remove(self.holders.find(key_id))

    def get(self, key_id: str) -> Key | None:
        holder = self.holders.get(key_id)
        return None if holder is None else holder.key

    async def key_proven(self, *credentials: str) -> Key:
        return (await self.prove(credentials)).key

    async def key_let_in(self, *credentials: str) -> Key:
        return (await self.authenticate(credentials)).key


@pytest.fixture
async def authenticator(machine: Machine) -> AsyncIterator[Gate]:
    authenticator = Gate(CHECKSUM_KEY, machine, KEY, OTHER_KEY)
    yield authenticator
    authenticator.close()


async def refusal(authenticator: Gate, *credentials: str) -> OpusLiveError:
    with pytest.raises(OpusLiveError) as raised:
        async with asyncio.timeout(PATIENCE):
            await authenticator.authenticate(credentials)
    return raised.value


async def unknown(authenticator: Gate, *credentials: str) -> bool:
    """Whether the credentials are refused like any guess."""
    guess = await refusal(authenticator, "guess")
    error = await refusal(authenticator, *credentials)
    return (error.code, error.message) == (Code.INVALID_KEY, guess.message)


class TestProof:
    async def test_a_keys_secret_proves_it_again_and_again(self, authenticator: Gate) -> None:
        for _ in range(3):
            assert await authenticator.key_let_in(FIRST) is KEY
            assert await authenticator.key_let_in(OTHER) is OTHER_KEY

    async def test_a_key_that_was_proven_before_takes_no_bcrypt(self, authenticator: Gate) -> None:
        await authenticator.key_proven(FIRST)
        authenticator.close()  # whoever asks for one now fails
        assert await authenticator.key_proven(FIRST) is KEY
        with pytest.raises(RuntimeError):
            await authenticator.key_proven(OTHER)

    @pytest.mark.parametrize(
        "credentials",
        [
            [FIRST],
            [FIRST, "garbage"],
            ["garbage", FIRST],
            ["", UNKNOWN, credential("key00009"), FIRST],
        ],
    )
    async def test_any_of_those_that_come_may_be_the_one(
        self, authenticator: Gate, credentials: list[str]
    ) -> None:
        for _ in range(2):
            assert await authenticator.key_let_in(*credentials) is KEY

    @pytest.mark.parametrize(
        "credentials",
        [
            [],
            [""],
            [UNKNOWN],
            [credential("key00009")],
            [credential(checksum_key=b"another" * 4)],
            [FIRST.replace(PREFIX, "sk-")],
            [FIRST[:-1]],
            [FIRST + "0"],
            [FIRST.lower()],
            [f" {FIRST}"],
            [f"{FIRST}\n"],
            [f"Bearer {FIRST}"],
        ],
    )
    async def test_nothing_but_the_secret_proves_a_key(
        self, authenticator: Gate, credentials: list[str]
    ) -> None:
        assert await unknown(authenticator, *credentials)
        await authenticator.key_proven(FIRST)
        assert await unknown(authenticator, *credentials)

    async def test_what_did_not_prove_its_key_takes_no_second_bcrypt(
        self, authenticator: Gate
    ) -> None:
        assert await unknown(authenticator, UNKNOWN)
        authenticator.close()  # whoever asks for one now fails
        assert await unknown(authenticator, UNKNOWN)
        authenticator.put(replace(KEY, name="renamed"))
        with pytest.raises(RuntimeError):
            await authenticator.key_proven(UNKNOWN)

    async def test_a_guess_costs_no_bcrypt(self, authenticator: Gate) -> None:
        authenticator.close()
        assert await unknown(authenticator, credential(checksum_key=secrets.token_bytes(32)))
        assert await unknown(authenticator, credential("key00009"))


async def guess(authenticator: Gate, key: Key = KEY, *, times: int) -> list[Code]:
    """Guess at a key all at once, knowing the checksum's key; return the refusals' codes."""
    async with asyncio.timeout(PATIENCE):
        errors = await asyncio.gather(
            *(authenticator.key_proven(credential(key.id)) for _ in range(times)),
            return_exceptions=True,
        )
    assert all(isinstance(error, OpusLiveError) for error in errors)
    return [error.code for error in errors if isinstance(error, OpusLiveError)]


class TestGuesses:
    """Who has a copy of the database has the key of the checksum, and the ids of all keys.

    Guesses of that kind: at one key or at many, all at once or steadily, by clients that stay or
    leave, at a key whose secret is in its grace (two hashes), at one that is proven or not, at one
    that changes. Each makes work of a bounded amount for each key, and none holds up a first proof
    of another key. A guess without the checksum's key makes no work at all.
    """

    async def test_without_the_checksums_key_cost_no_proof(self, authenticator: Gate) -> None:
        for _ in range(1000):
            wrong = credential(checksum_key=secrets.token_bytes(32))
            assert await unknown(authenticator, wrong)
        assert authenticator.prover.run == []

    async def test_at_an_id_that_no_key_has_cost_no_proof(self, authenticator: Gate) -> None:
        stranger = replace(KEY, id="key00009")
        assert await guess(authenticator, stranger, times=99) == [Code.INVALID_KEY] * 99
        assert authenticator.prover.run == []

    async def test_at_a_key_all_at_once_are_bounded(self, authenticator: Gate) -> None:
        codes = await guess(authenticator, times=99)
        assert codes.count(Code.INVALID_KEY) == MAX_GUESSES
        assert codes.count(Code.OVERLOADED) == 99 - MAX_GUESSES
        assert len(authenticator.prover.run) == MAX_GUESSES

    async def test_at_a_key_one_after_the_other_are_bounded(self, authenticator: Gate) -> None:
        for _ in range(99):
            await guess(authenticator, times=1)
        assert len(authenticator.prover.run) == MAX_GUESSES

    async def test_at_a_key_go_on_at_a_bounded_pace(
        self, authenticator: Gate, machine: Machine
    ) -> None:
        await guess(authenticator, times=99)
        for passed, more in ((MS_PER_GUESS - 1, 0), (1, 1), (3 * MS_PER_GUESS, 3)):
            before = len(authenticator.prover.run)
            machine.pass_time(passed)
            await guess(authenticator, times=99)
            assert len(authenticator.prover.run) - before == more

    async def test_are_bounded_whatever_the_machines_date_is_set_to(
        self, authenticator: Gate, machine: Machine
    ) -> None:
        await guess(authenticator, times=99)
        machine.wall += 1000 * HOUR
        await guess(authenticator, times=99)
        assert len(authenticator.prover.run) == MAX_GUESSES

    async def test_that_are_not_waited_for_are_bounded(self, authenticator: Gate) -> None:
        for _ in range(99):
            asking = asyncio.ensure_future(authenticator.key_proven(credential()))
            await turns(1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: not authenticator._proving)
        assert len(authenticator.prover.run) == MAX_GUESSES

    async def test_at_a_key_that_changes_are_bounded(self, authenticator: Gate) -> None:
        await guess(authenticator, times=MAX_GUESSES)
        authenticator.put(replace(KEY, name="renamed"))
        await guess(authenticator, times=99)
        assert len(authenticator.prover.run) == MAX_GUESSES

    async def test_at_a_key_with_an_old_secret_are_bounded(self, authenticator: Gate) -> None:
        authenticator.put(TestRotation.WITH_GRACE)
        await guess(authenticator, times=99)
        assert len(authenticator.prover.run) == MAX_GUESSES

    async def test_at_a_key_leave_its_proven_secret_alone(self, authenticator: Gate) -> None:
        await authenticator.key_proven(FIRST)
        await guess(authenticator, times=99)
        assert await authenticator.key_let_in(FIRST) is KEY

    async def test_at_a_key_let_its_unproven_secret_in_once_they_end(
        self, authenticator: Gate, machine: Machine
    ) -> None:
        await guess(authenticator, times=99)
        refused = await refusal(authenticator, FIRST)
        assert (refused.code, refused.retry_after) == (Code.OVERLOADED, 1)
        machine.pass_time(MS_PER_GUESS)
        assert await authenticator.key_let_in(FIRST) is KEY

    async def test_that_come_slowly_keep_no_secret_out(
        self, authenticator: Gate, machine: Machine
    ) -> None:
        for _ in range(5 * MAX_GUESSES):
            assert await guess(authenticator, times=1) == [Code.INVALID_KEY]
            machine.pass_time(MS_PER_GUESS)
        assert await authenticator.key_let_in(FIRST) is KEY

    async def test_right_ones_count_for_nothing(self, authenticator: Gate) -> None:
        for number in range(2 * MAX_GUESSES):
            authenticator.put(replace(KEY, name=f"renamed {number}"))
            await authenticator.key_let_in(FIRST)
        assert await guess(authenticator, times=MAX_GUESSES) == [Code.INVALID_KEY] * MAX_GUESSES

    async def test_at_a_key_hold_no_first_proof_of_another_up(self, authenticator: Gate) -> None:
        """It waits for the one proof that runs."""
        authenticator.prover.hold()
        guesses = asyncio.ensure_future(guess(authenticator, times=99))
        await turns(2)
        first = asyncio.ensure_future(authenticator.key_let_in(OTHER))
        await turns(2)
        authenticator.prover.go_on()
        await asyncio.gather(guesses, first)
        assert authenticator.prover.run.index(OTHER_KEY.id) == 1

    async def test_at_many_keys_hold_no_first_proof_of_another_up(self, machine: Machine) -> None:
        """Keys at which nobody guesses come before those at which somebody does."""
        guessed = [
            replace(KEY, id=f"key1{number:04}", name=f"guessed {number}", prefix=f"{number}")
            for number in range(20)
        ]
        authenticator = Gate(CHECKSUM_KEY, machine, OTHER_KEY, *guessed)
        for key in guessed:
            await guess(authenticator, key, times=1)
        authenticator.prover.run.clear()
        authenticator.prover.hold()
        guesses = [asyncio.ensure_future(guess(authenticator, key, times=99)) for key in guessed]
        await turns(2)
        first = asyncio.ensure_future(authenticator.key_let_in(OTHER))
        await turns(2)
        authenticator.prover.go_on()
        await asyncio.gather(*guesses, first)
        assert authenticator.prover.run.index(OTHER_KEY.id) == 1
        authenticator.close()

    async def test_at_several_keys_take_turns(self, authenticator: Gate) -> None:
        authenticator.prover.hold()
        guesses = [
            asyncio.ensure_future(guess(authenticator, key, times=99)) for key in (KEY, OTHER_KEY)
        ]
        await turns(2)
        authenticator.prover.go_on()
        await asyncio.gather(*guesses)
        assert authenticator.prover.run == [KEY.id, OTHER_KEY.id] * MAX_GUESSES


class TestStanding:
    async def test_a_disabled_key_is_refused_and_told_so(self, authenticator: Gate) -> None:
        """It is told only to who has the secret."""
        for _ in range(2):
            authenticator.put(replace(KEY, enabled=False))
            assert "disabled" in (await refusal(authenticator, FIRST)).message
            assert "disabled" in (await refusal(authenticator, FIRST)).message
            assert await unknown(authenticator, UNKNOWN)
            assert (await authenticator.key_proven(FIRST)).enabled is False
            authenticator.put(KEY)
            assert await authenticator.key_let_in(FIRST) is KEY

    async def test_an_expired_key_is_refused_and_told_so(
        self, authenticator: Gate, machine: Machine
    ) -> None:
        authenticator.put(replace(KEY, expires_at=NOW + HOUR))
        machine.wall = NOW + HOUR - 1
        await authenticator.key_let_in(FIRST)
        machine.wall = NOW + HOUR
        error = await refusal(authenticator, FIRST)
        assert error.code is Code.INVALID_KEY
        assert "expired" in error.message
        assert await unknown(authenticator, UNKNOWN)

    async def test_a_removed_key_is_unknown(self, authenticator: Gate) -> None:
        await authenticator.key_proven(FIRST)
        authenticator.remove(KEY.id)
        assert await unknown(authenticator, FIRST)
        assert authenticator.get(KEY.id) is None
        assert authenticator.holders.all_keys() == [OTHER_KEY]
        authenticator.put(KEY)
        assert await authenticator.key_proven(FIRST) is KEY


class TestRotation:
    ROTATED = replace(KEY, secret_hash=hash_credential(SECOND))
    WITH_GRACE = replace(ROTATED, previous_hash=KEY.secret_hash, previous_expires_at=NOW + HOUR)

    @pytest.mark.parametrize("seen", [False, True])
    async def test_the_old_secret_ends_at_once_without_grace(
        self, authenticator: Gate, seen: bool
    ) -> None:
        if seen:
            await authenticator.key_proven(FIRST)
        authenticator.put(self.ROTATED)
        assert await unknown(authenticator, FIRST)
        assert await authenticator.key_proven(SECOND) is self.ROTATED

    @pytest.mark.parametrize("seen", [False, True])
    async def test_the_old_secret_works_until_its_grace_ends(
        self, authenticator: Gate, machine: Machine, seen: bool
    ) -> None:
        """Both secrets work until it ends, whether they were proven before or not."""
        authenticator.put(self.WITH_GRACE)
        machine.wall = NOW + HOUR - 1
        if seen:
            for known in (FIRST, SECOND) * 2:
                assert await authenticator.key_let_in(known) is self.WITH_GRACE
        machine.wall = NOW + HOUR
        assert await unknown(authenticator, FIRST)
        assert await authenticator.key_proven(SECOND) is self.WITH_GRACE
        assert await unknown(authenticator, FIRST)

    async def test_twice_ends_the_first_grace(self, authenticator: Gate) -> None:
        authenticator.put(self.WITH_GRACE)
        await authenticator.key_proven(FIRST)
        third = credential()
        authenticator.put(
            replace(
                self.WITH_GRACE,
                secret_hash=hash_credential(third),
                previous_hash=self.ROTATED.secret_hash,
            )
        )
        assert await unknown(authenticator, FIRST)
        for good in (SECOND, third):
            assert (await authenticator.key_proven(good)).id == KEY.id

    async def test_only_the_present_secret_is_the_keys_own(
        self, authenticator: Gate, machine: Machine
    ) -> None:
        """Whoever has an old one in its grace may use the key, and not take it over."""
        authenticator.put(self.WITH_GRACE)
        for seen in (False, True):
            with pytest.raises(OpusLiveError, match="old secret") as raised:
                await authenticator.prove_secret([FIRST])
            assert raised.value.code is Code.FORBIDDEN, seen
            holder, key = await authenticator.prove_secret([SECOND])
            assert (holder.key, key) == (self.WITH_GRACE, self.WITH_GRACE)
            # Clients may send two, in either order.
            assert (await authenticator.prove_secret([FIRST, SECOND]))[1] is key
            assert (await authenticator.prove_secret([SECOND, FIRST]))[1] is key
        with pytest.raises(OpusLiveError) as raised:
            await authenticator.prove_secret([UNKNOWN])
        assert raised.value.code is Code.INVALID_KEY


class TestWithoutASecret:
    """A key whose first secret nobody has made yet."""

    BARE = replace(KEY, secret_hash=None)

    async def test_nothing_proves_it_and_no_bcrypt_is_made_for_it(
        self, authenticator: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authenticator.put(self.BARE)
        monkeypatch.setattr(bcrypt, "checkpw", None)
        for guess in (FIRST, UNKNOWN, credential()):
            assert await unknown(authenticator, guess)

    async def test_the_secret_that_is_made_proves_it_at_once(self, authenticator: Gate) -> None:
        authenticator.put(self.BARE)
        assert await unknown(authenticator, FIRST)
        authenticator.put(KEY)
        assert await authenticator.key_let_in(FIRST) is KEY


class TestWhileAProofRuns:
    async def begun(self, authenticator: Gate) -> asyncio.Task[Key]:
        proof = asyncio.ensure_future(authenticator.key_let_in(FIRST))
        await turns(1)
        assert not proof.done()
        return proof

    async def refused(self, proof: asyncio.Task[Key]) -> str:
        with pytest.raises(OpusLiveError) as raised:
            await proof
        assert raised.value.code is Code.INVALID_KEY
        return raised.value.message

    async def test_removing_the_key_makes_the_proof_fail(self, authenticator: Gate) -> None:
        proof = await self.begun(authenticator)
        authenticator.remove(KEY.id)
        assert "Invalid API key" in await self.refused(proof)
        assert await unknown(authenticator, FIRST)
        authenticator.put(self_rotated := TestRotation.ROTATED)
        assert await unknown(authenticator, FIRST)
        assert authenticator.get(KEY.id) is self_rotated

    async def test_rotating_the_key_makes_the_proof_of_the_old_secret_fail(
        self, authenticator: Gate
    ) -> None:
        proof = await self.begun(authenticator)
        authenticator.put(TestRotation.ROTATED)
        assert "Invalid API key" in await self.refused(proof)
        assert await unknown(authenticator, FIRST)

    async def test_disabling_the_key_makes_the_proof_fail(self, authenticator: Gate) -> None:
        proof = await self.begun(authenticator)
        authenticator.put(replace(KEY, enabled=False))
        assert "disabled" in await self.refused(proof)

    async def test_renaming_the_key_lets_the_proof_succeed(self, authenticator: Gate) -> None:
        proof = await self.begun(authenticator)
        authenticator.put(replace(KEY, name="renamed"))
        assert (await proof).name == "renamed"

    async def test_the_proof_goes_on_when_whoever_asked_leaves(self, authenticator: Gate) -> None:
        """The proof goes on without, and then keeps no place."""
        for _ in range(9):
            proof = asyncio.ensure_future(authenticator.key_proven(credential()))
            await turns(1)
            proof.cancel()
        await asyncio.gather(proof, return_exceptions=True)
        assert await authenticator.key_proven(FIRST) is KEY
        await eventually(lambda: not authenticator._proving)

    async def test_all_who_bring_the_same_credential_share_it(self, authenticator: Gate) -> None:
        many = [
            asyncio.ensure_future(authenticator.key_proven(FIRST)) for _ in range(2 * MAX_GUESSES)
        ]
        assert set(await asyncio.gather(*many)) == {KEY}

    async def test_who_comes_after_a_change_does_not_take_its_outcome(
        self, authenticator: Gate
    ) -> None:
        before = await self.begun(authenticator)
        authenticator.put(replace(KEY, name="renamed"))
        after = asyncio.ensure_future(authenticator.key_proven(FIRST))
        assert [(await proof).name for proof in (before, after)] == ["renamed", "renamed"]


ODD = [
    "\0",
    "\ud800",
    "\N{SNOWMAN}",
    "sk-ant-ol-" + "\N{ARABIC-INDIC DIGIT FOUR}" * 8 + FIRST[18:],
    FIRST[:-1] + "\N{FULLWIDTH DIGIT ONE}",
    FIRST + "\0",
    "x" * 1_000_000,
    FIRST * 20_000,
    "-" * 72,
    "é" * 72,
]


class TestGarbage:
    @pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
    async def test_odd_credentials_are_refused_like_guesses(
        self, authenticator: Gate, odd: str
    ) -> None:
        await authenticator.key_proven(FIRST)
        assert await unknown(authenticator, odd)

    @given(
        st.text(st.characters(), max_size=200)
        | st.builds(
            lambda position, with_: FIRST[:position] + with_ + FIRST[position + 1 :],
            st.integers(0, len(FIRST)),
            st.text(st.characters(), max_size=3),
        ).filter(lambda text: text != FIRST)
    )
    def test_no_text_is_taken_for_a_credential(self, text: str) -> None:
        """None of it comes as far as bcrypt."""

        async def ask() -> None:
            authenticator = Gate(CHECKSUM_KEY, Machine(), KEY)
            authenticator.close()
            assert (await refusal(authenticator, text)).code is Code.INVALID_KEY

        asyncio.run(ask())
