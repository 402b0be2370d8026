"""The admin password: what it may be, how it is hashed, and how it is proven."""

from __future__ import annotations

import secrets
import unicodedata

import bcrypt

from opuslive.errors import UsageError

#: The one user who may administer over HTTP.
USER = "admin"
#: Bytes of a normalized password that bcrypt takes.
MAX_PASSWORD = 72
#: Bytes of such a password as a client may send it: decomposed, a letter has three times as many.
MAX_SENT_PASSWORD = 3 * MAX_PASSWORD
#: Characters.
MIN_PASSWORD = 8
#: The cost of a password's hash: some 200 ms. A person chose it, so guessing has to be slow.
PASSWORD_COST = 12
#: What passwords that are made consist of.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


def hash_password(password: str) -> str:
    """The bcrypt hash to configure. Raises UsageError for a password that can't be one."""
    encoded = checked_password(password)
    return bcrypt.hashpw(encoded, bcrypt.gensalt(PASSWORD_COST)).decode("ascii")


def checked_password(password: str) -> bytes:
    """The bytes that are hashed. Raises UsageError for a password that can't be one."""
    password = unicodedata.normalize("NFC", password)
    encoded = password.encode("utf-8", "replace")
    if len(password) < MIN_PASSWORD or len(encoded) > MAX_PASSWORD:
        raise UsageError(
            f"The password needs {MIN_PASSWORD} characters at least, and {MAX_PASSWORD} bytes at "
            "most (bcrypt takes no more)."
        )
    if not password.isprintable():
        raise UsageError("The password may have printable characters only.")
    return encoded


def make_password() -> str:
    """A new password of some 99 bits, in letters and digits that nobody takes for others."""
    groups = ("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))
    return "-".join(groups)


def normalized(password: bytes) -> bytes:
    """The bytes that are hashed, from those that a client sent.

    Keyboards and systems differ in how they write letters with accents: composed or decomposed.
    Bytes that are not UTF-8 are latin-1, as some browsers and terminals send it.
    """
    try:
        text = password.decode()
    except UnicodeDecodeError:
        text = password.decode("latin-1")
    return unicodedata.normalize("NFC", text).encode()


def proves_password(password: bytes, password_hash: bytes) -> bool:
    """Whether the password was hashed, normalized or as it is. Takes long; never raises.

    Another program may have hashed the bytes as it got them.
    """
    return any(
        _is_hashed(each, password_hash) for each in dict.fromkeys((normalized(password), password))
    )


def _is_hashed(password: bytes, password_hash: bytes) -> bool:
    if len(password) > MAX_PASSWORD:
        # Versions of bcrypt raise, or look at the first 72 bytes alone.
        return False
    try:
        return bcrypt.checkpw(password, password_hash)
    except ValueError:
        return False
