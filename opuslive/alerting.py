"""The ways in which alerts are told that a configuration may name, without the code that tells."""

from __future__ import annotations

from typing import Literal, get_args

#: How a webhook's message is written.
Format = Literal["json", "slack", "discord", "ntfy"]
FORMATS: tuple[Format, ...] = get_args(Format)
#: How the connection to a mail server is encrypted.
Encryption = Literal["starttls", "tls", "none"]
