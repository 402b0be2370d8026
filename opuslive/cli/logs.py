"""Log lines on standard error, as text or JSON, without anything of a request's content.

The gateway's own messages hold no content. Messages of libraries may, so a line shows only the
library's logger and the kind of the exception.

Lines that someone outside can cause are thinned (``thinning``): those of ours that are marked, by
what they say; those of libraries by what is shown of them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from typing import TextIO

from opuslive.cli.output import encoding_of, json_text, visible
from opuslive.config.sections import LogConfig
from opuslive.thinning import Thinner, more

OURS = "opuslive"
ACCESS = "opuslive.access"

#: A value that ends where the next blank stands.
_WORD = re.compile(r"[^\s\"=]+")
#: What stands for no value, as in other access logs.
_NONE = "-"


def set_up_logging(config: LogConfig, now_ms: Callable[[], int]) -> LogOutput:
    """From now on write log lines to standard error, as the configuration says.

    ``now_ms`` is a clock that never goes back."""
    output = LogOutput(sys.stderr, Thinner(now_ms))
    output.use(config)
    logging.basicConfig(level=logging.WARNING, handlers=[output], force=True)
    # aiohttp would log addresses of clients, and quote malformed requests.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    return output


class LogOutput(logging.StreamHandler[TextIO]):
    """Writes lines, and thins them."""

    def __init__(self, stream: TextIO, thinner: Thinner) -> None:
        super().__init__(stream)
        self._thinner = thinner
        self._encoding = encoding_of(stream)

    def use(self, config: LogConfig) -> None:
        """Write what the configuration says, in its format, from the next line on."""
        json_lines = config.format == "json"
        self.setFormatter((_JsonFormatter if json_lines else _TextFormatter)(self._encoding))
        logging.getLogger(OURS).setLevel(config.level.upper())
        logging.getLogger(ACCESS).setLevel(logging.INFO if config.access else logging.CRITICAL)

    def emit(self, record: logging.LogRecord) -> None:
        # Lines come from several threads; this runs under the lock of the handler.
        kind = _kind(record)
        if kind is not None:
            left_out = self._thinner.left_out(kind)
            if left_out is None:
                return
            record.left_out = left_out
        super().emit(record)


def _kind(record: logging.LogRecord) -> Hashable:
    """What lines are thinned by; None for one that is written each time."""
    if not _is_ours(record):
        return _message(record)
    return (record.name, record.msg) if getattr(record, "thinned", False) else None


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == OURS or record.name.startswith(OURS + ".")


def _line(record: logging.LogRecord) -> str:
    """The message, and how many of its kind were left out."""
    return _message(record) + more(getattr(record, "left_out", 0))


def _message(record: logging.LogRecord) -> str:
    if _is_ours(record):
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
        line = f"{_time(record)} {record.levelname.lower()}: {_line(record)}{fields}"
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
                "message": _line(record),
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
    """The value of a field, a dash if there is none; in quotes if it could pass for another or for
    more than one."""
    if value is None:
        return _NONE
    text = str(value)
    plain = _WORD.fullmatch(text) and text != _NONE
    return text if plain else json.dumps(text, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
