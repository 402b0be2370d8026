"""The admin password: what it may be, how it is hashed, and how it is proven."""

from __future__ import annotations

import unicodedata

import bcrypt

from opuslive.errors import UsageError

#: The one user who may administer over HTTP.
USER = "admin"
#: Bytes of a password that bcrypt takes.
MAX_PASSWORD = 72
#: Characters.
MIN_PASSWORD = 8
#: The cost of a password's hash: some 200 ms. A person chose it, so guessing has to be slow.
PASSWORD_COST = 12


def hash_password(password: str) -> str:
    """The bcrypt hash to configure. Raises UsageError for a password that can't be one."""
    encoded = unicodedata.normalize("NFC", password).encode("utf-8", "replace")
    if len(password) < MIN_PASSWORD or len(encoded) > MAX_PASSWORD:
        raise UsageError(
            f"The password needs {MIN_PASSWORD} characters at least, and {MAX_PASSWORD} bytes at "
            "most (bcrypt takes no more)."
        )
    if not password.isprintable():
        raise UsageError("The password may have printable characters only.")
    return bcrypt.hashpw(encoded, bcrypt.gensalt(PASSWORD_COST)).decode("ascii")


def proves_password(password: bytes, password_hash: bytes) -> bool:
    """Whether it is the password that was hashed. Takes long; never raises."""
    if len(password) > MAX_PASSWORD:
        # Versions of bcrypt raise, or look at the first 72 bytes alone.
        return False
    try:
        return bcrypt.checkpw(password, password_hash)
    except ValueError:
        return False
