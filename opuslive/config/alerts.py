"""The section ``[alerts]``: whom to tell, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from opuslive.alerting import FORMATS, Encryption, Format
from opuslive.config.reader import (
    Place,
    host_name,
    integer,
    is_loopback,
    one_of,
    table,
    text,
    web_url,
)
from opuslive.config.tls import mail_address

#: Addresses that a message goes to, at most.
MAX_RECIPIENTS = 20
#: How the connection is encrypted → the port where that is expected (RFC 8314, RFC 6409).
_PORTS: Mapping[Encryption, int] = MappingProxyType({"starttls": 587, "tls": 465, "none": 25})


def _webhook(value: object, place: Place) -> str:
    url = web_url(value, place, query=True)
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise place.error("must begin with https://: the address of a webhook is a secret")
    # As it was written: to a receiver a slash at the end may make a difference.
    return url._replace(path=urlsplit(text(value, place)).path).geturl()


def _recipients(value: object, place: Place) -> tuple[str, ...]:
    found = tuple(
        mail_address(each, place) for each in (value if isinstance(value, list) else [value])
    )
    if not 1 <= len(found) <= MAX_RECIPIENTS:
        raise place.error(f"must have 1 to {MAX_RECIPIENTS} addresses")
    return found


@dataclass(frozen=True, slots=True)
class SmtpConfig:
    """How mail is sent. ``port`` is None for that of ``tls``. With a ``user`` there is a
    ``password_file``, a path."""

    host: Annotated[str, host_name]
    from_: Annotated[str, mail_address]
    to: Annotated[tuple[str, ...], _recipients]
    port: Annotated[int | None, integer(1, 65535)] = None
    tls: Annotated[Encryption, one_of(*get_args(Encryption))] = "starttls"
    user: Annotated[str | None, text] = None
    password_file: Annotated[str | None, text] = None

    @property
    def port_in_use(self) -> int:
        return self.port or _PORTS[self.tls]


def _check_smtp(smtp: SmtpConfig, place: Place) -> None:
    if smtp.tls == "none" and not is_loopback(smtp.host):
        raise place.key("tls").error(
            'only a mail server on this machine may do without encryption; write "starttls" or '
            '"tls"'
        )
    if (smtp.user is None) != (smtp.password_file is None):
        missing = "user" if smtp.user is None else "password_file"
        raise place.error(f"the key '{missing}' is missing; set user and password_file, or neither")


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Whoever knows a webhook's address can post to it, so it is treated as a secret. ``format``
    is what is posted there; by default what its host reads."""

    webhook: Annotated[str | None, _webhook] = field(default=None, repr=False)
    format: Annotated[Literal["auto"] | Format, one_of("auto", *FORMATS)] = "auto"
    smtp: Annotated[SmtpConfig | None, table(SmtpConfig, _check_smtp)] = None
