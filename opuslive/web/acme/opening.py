"""Puts together what keeps the certificate of a configuration with ``[server.tls] acme``."""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from opuslive.config.sections import ServerConfig
from opuslive.config.tls import certified_name
from opuslive.errors import UsageError
from opuslive.ownership import check_file
from opuslive.web.acme.forwarding import forwarding_app
from opuslive.web.acme.renewal import Renewal
from opuslive.web.acme.store import Store
from opuslive.web.http.tls import ServerCertificate

#: What the extra installs.
_EXTRA = ("acme", "josepy", "cryptography")


@dataclass(frozen=True, slots=True)
class KeptCertificate:
    """A certificate, what keeps it, and what is served at ``http_port`` for that."""

    certificate: ServerCertificate
    renewal: Renewal
    forwarding: web.Application
    http_port: int


def keep_certificate(
    server: ServerConfig,
    folder: Path,
    state: Path,
    now: Callable[[], float],
    chance: Callable[[], float],
) -> KeptCertificate:
    """``folder`` is that of the configuration, ``state`` that of the files to keep.

    ``now`` is the wall clock, in seconds since the epoch; ``chance`` gives numbers from 0 to 1.
    Raises UsageError if the extra is not installed, or files can't be read or written.
    """
    tls, public_url = server.tls, server.public_url
    assert tls is not None
    assert tls.acme is not None
    assert public_url is not None
    if any(importlib.util.find_spec(name) is None for name in _EXTRA):
        raise UsageError(
            "[server.tls] acme needs what is not installed: run pip install 'opuslive[acme]'."
        )
    # What the extra brings takes 0.3 s to load, and may be missing where it is not used.
    from opuslive.web.acme import papers  # noqa: PLC0415 (as said above)
    from opuslive.web.acme.authority import Authority  # noqa: PLC0415 (so too)

    name = certified_name(public_url)
    store = Store(state, tls.acme_directory, name)
    trusted = _trusted(None if tls.acme_ca is None else folder / tls.acme_ca)
    try:
        written = store.read_account_key()
        account = None if written is None else papers.read_key(written)
        if account is None:
            account = papers.new_key()
            store.write_account_key(papers.key_pem(account))
    except OSError as error:
        raise UsageError(
            f"The account's key in {store.folder} can't be read or written "
            f"({error.strerror or error}); let this user read and write there."
        ) from None
    certificate = ServerCertificate(
        store.certificate,
        store.certificate,
        now,
        stand_in=papers.stand_in_pem(name, now()),
        remedy="it is renewed by itself as soon as the certificate authority lets it",
    )
    answers: dict[str, str] = {}
    authority = Authority(tls.acme_directory, tls.acme, account, trusted, answers, now)
    return KeptCertificate(
        certificate,
        Renewal(name, authority, store, certificate, now, chance),
        forwarding_app(public_url, answers),
        tls.acme_http_port,
    )


def _trusted(ca: Path | None) -> ssl.SSLContext:
    """What the directory's own TLS is checked with."""
    if ca is None:
        return ssl.create_default_context()
    try:
        check_file(ca, "The root certificate", "name another in [server.tls] acme_ca")
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        # (An SSLError is an OSError, and its text names places in OpenSSL's source code.)
        reason = "no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"The root certificate {ca} can't be used ({reason}); check [server.tls] acme_ca."
        ) from None
