"""Whom alerts are told to, and whether the mail server lets the gateway in.

Nothing is posted to the webhook: it would tell a message. ``opuslive alerts test`` does that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from opuslive.bootstrap import alert_channels
from opuslive.config.alerts import AlertsConfig
from opuslive.diagnostics.findings import Finding, error, ok, warning
from opuslive.gateway.alerts.mail import Mail
from opuslive.gateway.alerts.webhook import Webhook

_TEST = "'opuslive alerts test' sends a message"


async def look(config: AlertsConfig, folder: Path) -> Iterable[Finding]:
    """A finding for each channel."""
    found = []
    for channel in alert_channels(config, folder).values():
        if isinstance(channel, Webhook):
            found.append(ok("alert webhook", f"is told in the format {channel.form}; {_TEST}"))
        elif isinstance(channel, Mail):
            found.append(await _mail(channel))
    return found


async def _mail(mail: Mail) -> Finding:
    name = "alert mail"
    answer = await mail.probe()
    if answer.problem is None:
        return ok(name, f"the server {mail.host} {answer.said.removeprefix('it ')}; {_TEST}")
    said = f" ({answer.said})" if answer.said else ""
    text = f"the server {mail.host}, port {mail.port}: {answer.problem}{said}"
    if answer.again_after is None:
        return error(name, text, "correct [alerts.smtp]")
    return warning(name, text, "see whether it runs, and whether [alerts.smtp] names it")
