"""Log lines on standard error, as text or JSON, without anything of a request's content.

The gateway's own messages hold no content. Messages of libraries may, so a line shows only the
library's logger and the kind of the exception.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from opuslive.cli.output import encoding_of, json_text, visible
from opuslive.config.sections import LogConfig

OURS = "opuslive"
ACCESS = "opuslive.access"

#: A value that ends where the next blank stands.
_WORD = re.compile(r"[^\s\"=]+")


def set_up_logging(config: LogConfig) -> None:
    """From now on write log lines to standard error, as the configuration says."""
    handler = logging.StreamHandler(sys.stderr)
    encoding = encoding_of(sys.stderr)
    handler.setFormatter(
        _JsonFormatter(encoding) if config.format == "json" else _TextFormatter(encoding)
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(OURS).setLevel(config.level.upper())
    logging.getLogger(ACCESS).setLevel(logging.INFO if config.access else logging.CRITICAL)
    # aiohttp would log addresses of clients, and quote malformed requests.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)


def _message(record: logging.LogRecord) -> str:
    if record.name == OURS or record.name.startswith(OURS + "."):
        return record.getMessage()
    error = (
        record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else "no exception"
    )
    return f"{record.name} reports a problem ({error})"


class _TextFormatter(logging.Formatter):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname.lower()}: {_message(record)}{fields}"
        # A name that a provider gave must not look like a line of its own.
        return visible(line, self._encoding, lines=False)


class _JsonFormatter(logging.Formatter):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    def format(self, record: logging.LogRecord) -> str:
        return json_text(
            {
                "time": _time(record),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _message(record),
                **_fields(record),
            },
            self._encoding,
        )


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """The fields of an access line: name of the column in an export → value of the record.

    ``time`` is the moment of admission.
    """
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _quoted(value: object) -> str:
    """The value of a field; in quotes if it could pass for more than one."""
    text = str(value)
    return text if _WORD.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
