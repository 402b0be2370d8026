"""``[server.tls]``: a certificate from files, or one that the gateway gets by itself (ACME)."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from opuslive.config.reader import Place, integer, is_loopback, matching, text, web_url

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"

#: A label of a name in DNS (RFC 1123, 2.1).
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

mail_address = matching(
    r"[A-Za-z0-9.!$'*+/=^_{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}",
    'a mail address, such as "you@example.com"',
)


def _directory(value: object, place: Place) -> str:
    if web_url(value, place, query=True).scheme != "https":
        raise place.error("must begin with https://, as every ACME directory does")
    # As it was written: to a directory a slash at the end may make a difference.
    return text(value, place)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files of the certificate chain and its key, or ``acme``, the contact of an account at
    the certificate authority whose directory is named. Paths are relative to the configuration's
    folder."""

    certificate: Annotated[str | None, text] = None
    private_key: Annotated[str | None, text] = None
    acme: Annotated[str | None, mail_address] = None
    acme_directory: Annotated[str, _directory] = LETS_ENCRYPT
    acme_ca: Annotated[str | None, text] = None
    acme_http_port: Annotated[int, integer(1, 65535)] = 80


def check_tls(tls: TlsConfig, place: Place) -> None:
    """Raise UsageError unless the keys name one way to a certificate."""
    if tls.acme is None:
        for name in ("certificate", "private_key"):
            if getattr(tls, name) is None:
                raise place.error(
                    f"the key '{name}' is missing; set certificate and private_key, or acme for a "
                    "certificate that OpusLive gets by itself"
                )
        for field in dataclasses.fields(tls):
            if field.name.startswith("acme_") and getattr(tls, field.name) != field.default:
                raise place.error(f"{field.name} is set without acme; set acme, or remove it")
    elif tls.certificate is not None or tls.private_key is not None:
        raise place.error(
            "acme gets a certificate by itself, and certificate and private_key name one; keep "
            "acme, or the two files"
        )


def check_by_itself(tls: TlsConfig | None, public_url: str | None, port: int, place: Place) -> None:
    """Raise UsageError if a certificate is to be got, and can't be got for the public URL, or not
    beside the port of ``[server]``, whose place is given."""
    if tls is None or tls.acme is None:
        return
    if tls.acme_http_port == port:
        raise place.key("port").error(
            "is the port of [server.tls] acme_http_port, too; set another one, mostly 443"
        )
    at = place.key("public_url")
    if public_url is None:
        raise at.error(
            "is missing, and [server.tls] acme gets a certificate for its host; set it, as in "
            '"https://ai.example.com"'
        )
    if urlsplit(public_url).scheme != "https":
        raise at.error("must begin with https://, since [server.tls] acme makes it so")
    check_certified(certified_name(public_url), at)


def check_certified(name: str, place: Place) -> None:
    """Raise UsageError for a host name that no authority certifies, and which stands at a place."""
    if is_loopback(name) or name.endswith(".localhost") or _is_address(name):
        raise place.error(
            "names no host that [server.tls] acme can get a certificate for; write a name that "
            "leads here, not localhost or an IP address"
        )
    if not all(map(_LABEL.fullmatch, name.split("."))):
        raise place.error(
            "[server.tls] acme needs a host name of letters, digits and dashes; an international "
            'name is written as in "xn--bcher-kva.example"'
        )


def certified_name(public_url: str) -> str:
    """The host name in a public URL, as a certificate names it."""
    return (urlsplit(public_url).hostname or "").rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        # Browsers and resolvers take a last label of digits for an address.
        return name.rpartition(".")[2].isdigit()
    return True
