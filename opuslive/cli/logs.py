"""Log lines on standard error: text or JSON, and nothing of a request's content in them.

The gateway's own messages are written so that they hold none. Those of libraries are not,
so of theirs only where they come from and the kind of exception is let through.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from opuslive.config.sections import LogConfig

OURS = "opuslive"
ACCESS = "opuslive.access"


def set_up_logging(config: LogConfig) -> None:
    """Send what is logged from now on to standard error, as the configuration says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if config.format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(OURS).setLevel(config.level.upper())
    logging.getLogger(ACCESS).setLevel(logging.INFO if config.access else logging.CRITICAL)
    # An access log of its own, with addresses; and malformed requests, quoted.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)


def _message(record: logging.LogRecord) -> str:
    if record.name == OURS or record.name.startswith(OURS + "."):
        return record.getMessage()
    error = (
        record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else "no exception"
    )
    return f"{record.name} reports a problem ({error})"


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return f"{_time(record)} {record.levelname.lower()}: {_message(record)}{fields}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": _time(record),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _message(record),
                **_fields(record),
            },
            ensure_ascii=False,
        )


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """What an access line consists of: the values of a record, under the names of an export.

    Its ``time`` is when the request was admitted.
    """
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
