"""Which lines of the log are thinned: all that someone outside can cause, and no others."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from aiohttp import web

from opuslive.cli.logs import set_up_logging
from opuslive.cli.serving.runtime import log_loop_error
from opuslive.config.sections import LogConfig
from tests.support.clock import Machine
from tests.support.connections import Acceptor
from tests.support.waiting import turns
from tests.support.wire import request_bytes

PACKAGE = Path(__file__).parents[2] / "opuslive"

#: Who can cause each line: "anyone" outside, over and over, so that it has to be thinned; or the
#: "administrator", who also means a change of the machine, of its disk and of its clock; or lines
#: that have a "bound" of their own, which says how often they come. A module → the beginnings of
#: its lines. A line of the log that is new has to be entered.
ANYONE, ADMINISTRATOR, BOUND = "anyone", "administrator", "bound"
LINES = {
    "administration/keys.py": {"What the deleted key": ADMINISTRATOR},
    "bootstrap.py": {
        "%d requests were running when": ADMINISTRATOR,
        "exposure_warning(path, status)": ADMINISTRATOR,
    },
    "cli/control.py": {"the server that has the database does not": ADMINISTRATOR},
    "cli/service.py": {"the service manager can't be told": ADMINISTRATOR},
    "cli/sandboxes.py": {"there is no place to note the sandbox": ADMINISTRATOR},
    "cli/serve.py": {"settings.warning": ADMINISTRATOR, "stopping: ": ADMINISTRATOR},
    "cli/serving/runtime.py": {"the event loop reports a problem": ANYONE},
    "cli/serving/signals.py": {
        "SIGHUP is ignored": ADMINISTRATOR,
        "the configuration could not be reloaded": ADMINISTRATOR,
    },
    "cli/serving/takeover.py": {"sentence": ADMINISTRATOR},
    "gateway/admission/admission.py": {"an alert of a limit failed": ANYONE},
    # Two levels of each limit an hour at most, see limits.levels; two of each expiry.
    "gateway/alerts/alerts.py": {"%s": BOUND},
    "gateway/alerts/delivery.py": {
        "%s was not told of %d alerts before": ADMINISTRATOR,
        # One of an alert that was dropped.
        "%s is too slow": BOUND,
        "%s was not told of an alert": ANYONE,
        "%d alerts were not told": ADMINISTRATOR,
    },
    # At level "debug", once in ten minutes.
    "gateway/alerts/expiries.py": {"when expiries were looked at last": BOUND},
    "gateway/exchanges.py": {"a running request could not be kept": ANYONE},
    # At level "debug": a line a request is what the administrator asked for.
    "gateway/forwarding.py": {"upstream %s answered the request": ADMINISTRATOR},
    # Once an hour or a minute, by the clock.
    "gateway/upstreams/catalog.py": {
        "upstream %s gave no list of models: ": BOUND,
        "upstream %s gave no list of models that": BOUND,
    },
    # Thinned there, by upstream and failure.
    "gateway/upstreams/failures.py": {"upstream %s %s%s%s": BOUND},
    # The line of a request that was recorded, where the administrator asks for it.
    "gateway/upstreams/monitor.py": {
        # Once when an upstream is put aside for some time, and once when it is back.
        "upstream %s failed %d times": BOUND,
        "upstream %s answers again": BOUND,
        # Once an hour or a minute, by the clock.
        "upstream %s refuses this gateway's credential": BOUND,
    },
    "gateway/settlement.py": {"request": ADMINISTRATOR},
    "gateway/timekeeping.py": {"The machine's clock was set": ADMINISTRATOR},
    "reloading.py": {
        "settings.warning": ADMINISTRATOR,
        "The configuration from before": ADMINISTRATOR,
        "The configuration was reloaded": ADMINISTRATOR,
        "the configuration was reloaded": ADMINISTRATOR,
    },
    # Once when the disk falls behind or fails, and once when it is well again.
    "storage/sqlite/backlog.py": {
        "The disk keeps up with": BOUND,
        "The disk is too slow": BOUND,
    },
    "storage/sqlite/database.py": {"": ADMINISTRATOR},
    "storage/sqlite/erasure.py": {"The usage of a deleted key": ADMINISTRATOR},
    "storage/sqlite/writer.py": {
        "A change of the database failed": ADMINISTRATOR,
        "The database takes writes again": BOUND,
        "The database can't be written": BOUND,
        "%d usage records were lost": ADMINISTRATOR,
        "A usage record of key %s": ANYONE,
    },
    # By the clock: once a change, with pauses of a minute at least between two of them.
    "web/acme/renewal.py": {
        "There is no certificate for %s yet": ADMINISTRATOR,
        "There is no new certificate for %s": BOUND,
        "%s has a new certificate": BOUND,
        "there is no advice on when": BOUND,
    },
    "web/http/connection.py": {"a request met a defect": ANYONE},
    "web/http/tls.py": {
        "the certificate %s was read again": ADMINISTRATOR,
        "The certificate %s and its private key": ADMINISTRATOR,
        "The certificate %s can't be used": ADMINISTRATOR,
        "Others may read the private key": ADMINISTRATOR,
        "The certificate %s %s on": ADMINISTRATOR,
    },
}


#: What modules call their loggers.
NAMES = ("log", "_log", "access_log")
#: What writes a line.
LEVELS = ("debug", "info", "warning", "error", "critical", "exception", "log")


def test_loggers_have_the_names_that_are_looked_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assign) and "getLogger(" in ast.unparse(node.value):
                assert ast.unparse(node.targets[0]) in NAMES, path


def log_calls() -> list[tuple[str, str, bool]]:
    """Each line of the log: its module, its words, whether it is marked to be thinned."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in NAMES
                and node.func.attr in LEVELS
            ):
                words = node.args[1 if node.func.attr == "log" else 0]
                text = words.value if isinstance(words, ast.Constant) else ast.unparse(words)
                extra = [each.value for each in node.keywords if each.arg == "extra"]
                marked = any(ast.unparse(value) == "THINNED" for value in extra)
                found.append((path.relative_to(PACKAGE).as_posix(), str(text), marked))
    return found


def test_every_line_that_anyone_can_cause_is_marked_and_no_other_is() -> None:
    wrong, known = [], set()
    for module, words, marked in log_calls():
        beginnings = [begin for begin in LINES.get(module, {}) if words.startswith(begin)]
        if not beginnings:
            wrong.append(f"{module}: who can cause {words!r}?")
            continue
        begin = max(beginnings, key=len)
        known.add((module, begin))
        if marked != (LINES[module][begin] == ANYONE):
            wrong.append(f"{module}: {words!r} is {'' if marked else 'not '}thinned")
    listed = {(module, begin) for module, lines in LINES.items() for begin in lines}
    assert wrong == []
    assert known == listed


@dataclass
class Written:
    """What the log writes at a time that a test sets."""

    out: io.TextIOWrapper
    machine: Machine = field(default_factory=Machine)

    @property
    def lines(self) -> list[str]:
        """The lines, without their times."""
        assert isinstance(self.out.buffer, io.BytesIO)
        lines = self.out.buffer.getvalue().decode().splitlines()
        return [line.partition("Z ")[2] or line for line in lines]


SetUp = Callable[[Literal["text", "json"]], Written]


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> SetUp:
    def make(form: Literal["text", "json"]) -> Written:
        written = Written(io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True))
        monkeypatch.setattr("sys.stderr", written.out)
        set_up_logging(LogConfig(format=form, access=True), written.machine.clock.elapsed_ms)
        return written

    return make


@pytest.fixture
def written(set_up: SetUp) -> Written:
    return set_up("text")


def test_level_format_and_access_lines_change_while_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Written(io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True))
    monkeypatch.setattr("sys.stderr", written.out)
    output = set_up_logging(LogConfig(), written.machine.clock.elapsed_ms)
    ours, access = logging.getLogger("opuslive"), logging.getLogger("opuslive.access")
    ours.info("one")
    access.info("two")
    output.use(LogConfig(level="warning", format="json", access=True))
    ours.info("three")
    access.info("four")
    output.use(LogConfig())
    access.info("five")
    ours.info("six")
    one, four, six = written.lines
    assert (one, six) == ("info: one", "info: six")
    assert json.loads(four)["message"] == "four"


@pytest.fixture
async def acceptor() -> AsyncIterator[Acceptor]:
    acceptor = Acceptor()
    yield acceptor
    await acceptor.close()


async def test_a_defect_that_a_client_meets_in_a_loop_is_said_once_a_second(
    written: Written, acceptor: Acceptor
) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        raise ValueError(request.path)

    async def ask() -> None:
        async with await acceptor.connect() as wire:
            await wire.send(request_bytes("GET", "/kanarienvogel"))
            assert (await wire.answer()).status == 500
            await wire.ending()

    await acceptor.start(handler)
    for _ in range(5):
        await ask()
    (line,) = written.lines
    assert line.startswith("error: a request met a defect of the gateway: ValueError")
    written.machine.pass_time(1_000)
    await ask()
    assert written.lines[1].endswith("(4 more since it was last said)")
    assert "kanarienvogel" not in str(written.lines)


async def test_a_problem_of_the_event_loop_is_said_once_a_second(written: Written) -> None:
    """As when there are no descriptors left for all who connect."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_error)

    def fail() -> None:
        raise OSError(24, "Too many open files")

    for _ in range(5):
        loop.call_soon(fail)
    await turns()
    written.machine.pass_time(1_000)
    loop.call_soon(fail)
    await turns()
    said = "error: the event loop reports a problem (OSError)"
    assert written.lines == [said, f"{said} (4 more since it was last said)"]


def test_lines_of_libraries_are_thinned_by_what_is_shown_of_them(written: Written) -> None:
    """Their own words differ with what clients send, and are not shown."""
    for number in range(5):
        logging.getLogger("library").warning("client %d sent %s", number, "x" * number)
        logging.getLogger("other").error(f"client {number}")  # noqa: G004
    assert written.lines == [
        "warning: library reports a problem (no exception)",
        "error: other reports a problem (no exception)",
    ]


def test_a_bounded_number_is_remembered_whatever_libraries_say(written: Written) -> None:
    handler = next(each for each in logging.root.handlers if hasattr(each, "_thinner"))
    for number in range(5_000):
        logging.getLogger("library").warning(f"line {number}")  # noqa: G004
    assert len(handler._thinner._said) == 1
    assert len(written.lines) == 1


def test_what_a_request_has_none_of_is_a_dash_in_text_and_null_in_json(set_up: SetUp) -> None:
    fields = {"model": None, "latency_ms": None, "key": "-", "status": 429}
    for form in ("text", "json"):
        written = set_up(form)
        logging.getLogger("opuslive.access").info("request", extra={"fields": fields})
        (line,) = written.lines
        if form == "text":
            assert line == 'info: request model=- latency_ms=- key="-" status=429'
        else:
            told = json.loads(line)
            assert {name: told[name] for name in fields} == fields


def test_json_tells_the_number_left_out_in_the_message(set_up: SetUp) -> None:
    written = set_up("json")
    for _ in range(3):
        logging.getLogger("library").warning("words")
    written.machine.pass_time(1_000)
    logging.getLogger("library").warning("words")
    messages = [json.loads(line)["message"] for line in written.lines]
    said = "library reports a problem (no exception)"
    assert messages == [said, f"{said} (2 more since it was last said)"]


@pytest.mark.parametrize(
    ("logger", "level"),
    [
        ("opuslive.access", logging.INFO),
        ("opuslive.cli.serve", logging.WARNING),
        ("opuslive.administration.keys", logging.ERROR),
    ],
)
def test_what_the_administrator_causes_or_asks_for_is_written_each_time(
    written: Written, logger: str, level: int
) -> None:
    for _ in range(3):
        logging.getLogger(logger).log(level, "the same")
    assert len(written.lines) == 3
