"""How an alert is written for who shows it: Slack, Discord, ntfy, or any program.

Names of groups and upstreams are free text, and the services make something of text: mentions
that ring everybody's telephone, links that are fetched, markup. Each format therefore takes from
the text what its service would interpret, and switches off what can be:

======= ==================================================== =====================================
format  body                                                 what makes text harmless
======= ==================================================== =====================================
json    the message as a JSON object                         nothing: it is for programs
slack   ``text``, with ``mrkdwn`` and unfurling off          ``&``, ``<`` and ``>`` as entities
discord ``content``, with no mention allowed, no embeds      a backslash before what is markup
ntfy    the text itself, below a title, by its priority      nothing: ntfy shows text as it is
======= ==================================================== =====================================

Slack: "Formatting text for app surfaces"; Discord: "Execute Webhook", "Allowed Mentions Object";
ntfy: "Publishing".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from opuslive.alerting import Format
from opuslive.gateway.alerts.alerts import Message
from opuslive.limits.levels import FULL

#: What a host's name ends with → the format that it reads.
_HOSTS: Mapping[str, Format] = MappingProxyType(
    {
        "hooks.slack.com": "slack",
        "hooks.slack-gov.com": "slack",
        "discord.com": "discord",
        "discordapp.com": "discord",
        "ntfy.sh": "ntfy",
    }
)
#: UTF-16 units that Discord takes, and bytes that ntfy shows as a message.
MAX_DISCORD: Final = 2000
MAX_NTFY: Final = 4096
_ELLIPSIS = "…"
#: Discord's flag of a message whose links are not fetched (SUPPRESS_EMBEDS).
_NO_EMBEDS = 4
_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_DISCORD = str.maketrans({char: f"\\{char}" for char in "\\*_~`|<>[]()#@:"})


@dataclass(frozen=True, slots=True)
class Written:
    """A message as it is sent; ``headers`` say what it is."""

    body: bytes
    headers: Mapping[str, str]


def format_of(host: str) -> Format:
    """The format that is read at this host; ``json`` where nothing is known of it."""
    host = host.lower().rstrip(".")
    for known, form in _HOSTS.items():
        if host == known or host.endswith(f".{known}"):
            return form
    return "json"


def write(message: Message, form: Format) -> Written:
    """The message in a format."""
    return _WRITERS[form](message)


def _json(members: Mapping[str, object]) -> Written:
    return Written(msgspec.json.encode(members), {"content-type": "application/json"})


def _slack(message: Message) -> Written:
    text = str(message["text"]).translate(_SLACK)
    return _json({"text": text, "mrkdwn": False, "unfurl_links": False, "unfurl_media": False})


def _discord(message: Message) -> Written:
    text = str(message["text"]).translate(_DISCORD)
    return _json(
        {
            "content": _shortened(text, MAX_DISCORD, "utf-16-le", 2),
            "allowed_mentions": {"parse": []},
            "flags": _NO_EMBEDS,
        }
    )


def _ntfy(message: Message) -> Written:
    urgent = message["event"] == "credential" or message.get("level") == FULL
    return Written(
        _shortened(str(message["text"]), MAX_NTFY, "utf-8", 1).encode(),
        {
            "content-type": "text/plain; charset=utf-8",
            "title": "OpusLive",
            "priority": "high" if urgent else "default",
            "tags": "warning",
        },
    )


def _shortened(text: str, most: int, encoding: str, unit: int) -> str:
    """The text, or as much of it as fits with an ellipsis, in units of so many bytes."""
    encoded = text.encode(encoding)
    if len(encoded) <= most * unit:
        return text
    room = most * unit - len(_ELLIPSIS.encode(encoding))
    return encoded[:room].decode(encoding, "ignore") + _ELLIPSIS


_WRITERS: Mapping[Format, Callable[[Message], Written]] = MappingProxyType(
    {"json": _json, "slack": _slack, "discord": _discord, "ntfy": _ntfy}
)
