"""Keys: what a holder's credential looks like, how it is made and how it is proven.

A credential is the configured prefix, 8 characters of id, ``-``, 34 characters of
secret (about 202 bits) and 6 characters of checksum::

    sk-ant-ol-Ab3dEf9h-0123456789abcdefghijABCDEFGHIJ0123Zz9Yx8
    ^prefix   ^id      ^secret                           ^checksum

The id makes looking a key up a dictionary hit. The checksum is keyed with a secret
of the database, so that a guess is refused without the cost of a bcrypt. Only the
bcrypt hash of the whole credential is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field, replace

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 8
SECRET_LENGTH = 34
CHECKSUM_LENGTH = 6
#: Of an invitation's code: about 190 bits, so that a hash which takes microseconds keeps it.
CODE_LENGTH = 32
#: bcrypt takes 72 bytes: 72 - 8 (id) - 1 (dash) - 40 (secret and checksum) leaves 23.
MAX_PREFIX_LENGTH = 20
#: A few ms. The secret has 200 bits, so the hash need not slow a dictionary attack down.
BCRYPT_COST = 6

_CREDENTIAL = re.compile(
    rf"[!-~]{{0,{MAX_PREFIX_LENGTH}}}(?P<id>[0-9A-Za-z]{{{ID_LENGTH}}})"
    rf"-[0-9A-Za-z]{{{SECRET_LENGTH + CHECKSUM_LENGTH}}}"
)
_CODE = re.compile(rf"[0-9A-Za-z]{{{CODE_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Invitation:
    """Whoever has the code makes the key's next secret, once, before ``expires_at`` (ms since the
    epoch). Only the hash of the code is kept."""

    code_hash: bytes = field(repr=False)
    expires_at: int

    def expired(self, now_ms: int) -> bool:
        return now_ms >= self.expires_at


@dataclass(frozen=True, slots=True)
class Raise:
    """Until a moment (ms since the epoch, by the wall clock) a key's limit of the same metric and
    window has the amount that ``limit`` says, which is a canonical text."""

    limit: str
    until: int


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored. Times are ms since the Unix epoch; ``expires_at`` is the first
    moment at which the key is refused, ``None`` for never.

    ``secret_hash`` is ``None`` as long as nobody has made the first secret: nothing proves the key
    then. ``invitation`` is the one way to its next secret that a holder has, if there is one.

    ``prefix`` is the display prefix: everything of the credential before its secret.
    ``models`` are globs, matched after alias resolution; none means every model.
    ``limits`` are canonical limit texts, ``raises`` say which of them are higher for a while, one
    at most for each. After a rotation with grace ``previous_hash`` proves the old secret until
    ``previous_expires_at``.
    """

    id: str
    name: str
    prefix: str
    created_at: int
    secret_hash: bytes | None = field(repr=False)
    enabled: bool = True
    expires_at: int | None = None
    models: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    group: str | None = None
    previous_hash: bytes | None = field(default=None, repr=False)
    previous_expires_at: int | None = None
    raises: tuple[Raise, ...] = ()
    invitation: Invitation | None = None

    def expired(self, now_ms: int) -> bool:
        return self.expires_at is not None and now_ms >= self.expires_at

    def invited(self, now_ms: int) -> bool:
        """Whether a holder may still make its next secret."""
        return self.invitation is not None and not self.invitation.expired(now_ms)


@dataclass(frozen=True, slots=True)
class GroupChange:
    """From ``since`` on, ms since the epoch, the key's requests count in ``group``; with
    ``None``, in none."""

    since: int
    group: str | None


def new_key_id() -> str:
    return _random_text(ID_LENGTH)


def new_credential(prefix: str, key_id: str, checksum_key: bytes) -> str:
    """Make a credential for the key: a fresh secret under the same id."""
    body = f"{display_prefix(prefix, key_id)}-{_random_text(SECRET_LENGTH)}"
    return body + _checksum(body, checksum_key)


def next_credential(key: Key, checksum_key: bytes) -> str:
    """Make a further credential for a key that there is already."""
    # The prefix of the day it was made is part of what holders know the key by.
    return new_credential(key.prefix.removesuffix(key.id), key.id, checksum_key)


def with_secret(key: Key, secret_hash: bytes, old_until: int | None = None) -> Key:
    """The key with another secret. The one that it had, if any, goes on proving it until
    ``old_until`` (ms since the epoch); any before that one does not."""
    graced = old_until is not None and key.secret_hash is not None
    return replace(
        key,
        secret_hash=secret_hash,
        previous_hash=key.secret_hash if graced else None,
        previous_expires_at=old_until if graced else None,
    )


def display_prefix(prefix: str, key_id: str) -> str:
    """What of a credential may be shown: all that stands before its secret."""
    return prefix + key_id


def key_id_of(credential: str) -> str | None:
    """The id in a text that has the form of a credential; ``None`` for any other text."""
    match = _CREDENTIAL.fullmatch(credential)
    return None if match is None else match["id"]


def checksum_matches(credential: str, checksum_key: bytes) -> bool:
    """Whether a text of the form of a credential can be one that this database made.

    Costs microseconds, so that guesses need not be proven.
    """
    body, checksum = credential[:-CHECKSUM_LENGTH], credential[-CHECKSUM_LENGTH:]
    return hmac.compare_digest(checksum, _checksum(body, checksum_key))


def hash_credential(credential: str) -> bytes:
    """The bcrypt hash to store. Takes a few ms: call it off the event loop."""
    import bcrypt  # noqa: PLC0415 (Only who makes or proves keys needs it.)

    return bcrypt.hashpw(credential.encode("ascii"), bcrypt.gensalt(BCRYPT_COST))


def proves(credential: str, secret_hash: bytes) -> bool:
    """Whether the credential is the one that was hashed. Takes a few ms; never raises."""
    import bcrypt  # noqa: PLC0415 (As above.)

    try:
        return bcrypt.checkpw(credential.encode("ascii"), secret_hash)
    except ValueError:
        return False


def new_code() -> str:
    """The code of a new invitation."""
    return _random_text(CODE_LENGTH)


def code_in(text: str) -> str | None:
    """The code in a text, which may be the link that ends in it; ``None`` if none is there."""
    code = text.strip().rpartition("#")[2]
    return code if _CODE.fullmatch(code) else None


def hash_code(code: str) -> bytes:
    """The hash of an invitation's code to store. The code is random, so a fast hash will do."""
    return hashlib.sha256(code.encode("ascii")).digest()


def _random_text(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _checksum(body: str, checksum_key: bytes) -> str:
    digest = hashlib.blake2b(body.encode(), key=checksum_key, digest_size=16).digest()
    number = int.from_bytes(digest, "big")
    characters = []
    for _ in range(CHECKSUM_LENGTH):
        number, index = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[index])
    return "".join(characters)
