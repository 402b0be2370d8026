"""Output on a terminal or a pipe that can't take every letter.

A fault of this kind is any text that a person or a provider chose (names of keys, groups and
models, words of the command line) in any output (tables, fields, JSON, CSV, sentences, questions,
log lines, help) on any encoding (ASCII, latin-1, UTF-16), and any control character in it that
would reach the terminal.
"""

from __future__ import annotations

import io
import json
import logging

import click
import pytest

from opuslive.cli import main
from opuslive.cli.logs import set_up_logging
from opuslive.cli.output import json_text, print_csv, visible
from opuslive.config.sections import LogConfig
from tests.support.keys import a_key, a_record
from tests.support.workplace import SERVED, Workplace

pytestmark = SERVED

NAME = "café ☕"
SHOWN = {"ascii": r"caf\xe9 \u2615", "latin-1": r"café \u2615", "utf-8": NAME}
ENCODINGS = pytest.mark.parametrize("charset", SHOWN)


@ENCODINGS
def test_the_secret_of_a_new_key_is_shown_whatever_its_name_is(
    workplace: Workplace, charset: str
) -> None:
    made = workplace.run("keys", "create", NAME, "--group", NAME, "--json", charset=charset)
    assert made.status == 0
    assert made.json()["name"] == NAME
    secret = made.json()["key"]
    assert secret.startswith("sk-ant-ol-")
    rotated = workplace.run("keys", "rotate", NAME, "--json", charset=charset)
    assert rotated.json()["key"] not in ("", secret)
    other = workplace.run("keys", "create", NAME + "2", "--group", NAME, charset=charset)
    assert (other.status, other.out.splitlines()[0][:10]) == (0, "sk-ant-ol-")
    assert f"'{SHOWN[charset]}2'" in other.out
    assert f"'{SHOWN[charset]}'" in other.err


@ENCODINGS
def test_every_command_shows_a_name_as_the_stream_can(workplace: Workplace, charset: str) -> None:
    shown = SHOWN[charset]
    workplace.fill([a_key(1, name=NAME)], [a_record(1)])
    for command in (
        ["keys", "list"],
        ["keys", "show", NAME],
        ["keys", "update", NAME, "--group", NAME],
        ["keys", "disable", NAME],
        ["keys", "enable", NAME],
        ["usage", "--since", "2026-01-01"],
        ["usage", NAME, "--since", "2026-01-01"],
    ):
        done = workplace.run(*command, charset=charset)
        assert (done.status, shown in done.out) == (0, True), (command, done)
    refused = workplace.run("usage", "--since", NAME, charset=charset)
    assert f"'{shown}' is neither" in refused.complaint
    asked = workplace.run("keys", "delete", NAME, input_="y\n", charset=charset)
    assert f"Delete the key '{shown}'" in asked.err
    assert f"Deleted the key '{shown}'" in asked.out


@ENCODINGS
def test_json_is_exact_on_every_stream(workplace: Workplace, charset: str) -> None:
    workplace.fill([a_key(1, name=NAME)], [a_record(1)])
    listed = workplace.run("keys", "list", "--json", charset=charset)
    assert [key["name"] for key in listed.json()] == [NAME]
    report = workplace.run("usage", "--since", "2026-01-01", "--json", charset=charset)
    assert [row["name"] for row in report.json()["series"]] == [NAME]


def test_csv_is_utf_8_on_every_stream(workplace: Workplace) -> None:
    workplace.fill([a_key(1, name=NAME)], [a_record(1)])
    done = workplace.run("usage", "--since", "2026-01-01", "--format", "csv", charset="latin-1")
    written = done.out.encode("latin-1").decode("utf-8")
    assert written.splitlines()[1].startswith(f"key00001,{NAME},1,0,")


def test_csv_on_a_terminal_has_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", Terminal(written, "ascii"))
    print_csv("model\n\x1b[2J☕\n")
    assert written.getvalue() == b"model\n\\x1b[2J\\u2615\n"


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("plain\nlines", "ascii", "plain\nlines"),
        ("\x1b[31m", "utf-8", r"\x1b[31m"),
        ("\x9b31m", "latin-1", r"\x9b31m"),
        ("a\rb\tc\0", "utf-8", r"a\rb\tc\x00"),
        ("\u202eevil", "utf-8", r"\u202eevil"),
        ("\udcff", "utf-8", r"\udcff"),
        ("😀", "ascii", r"\U0001f600"),
        ("😀", "utf-16", "😀"),
        ("back\\slash 'quotes'", "utf-8", "back\\slash 'quotes'"),
    ],
)
def test_text_for_people_has_nothing_that_steers_a_terminal(
    text: str, encoding: str, shown: str
) -> None:
    assert visible(text, encoding) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("text", [NAME, "😀", "\udcff", "\x1b\x9b\u202e\x7f", 'a"\\\n'])
def test_json_is_exact_and_plain_in_every_encoding(encoding: str, text: str) -> None:
    for indent in (None, 2):
        written = json_text({text: [text]}, encoding, indent=indent)
        assert json.loads(written.encode(encoding).decode(encoding)) == {text: [text]}
        assert all(char == "\n" or char.isprintable() for char in written)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_log_lines_are_whole_lines_in_every_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    model = "é☕😀\x1b[2J\n2026-01-01T00:00:00.000Z error: forged"
    for form in ("text", "json"):
        written = io.BytesIO()
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(written, encoding, write_through=True))
        set_up_logging(LogConfig(format=form, access=True), lambda: 0)
        logging.getLogger("opuslive.access").info("request", extra={"fields": {"model": model}})
        (line,) = written.getvalue().decode(encoding).splitlines()
        assert line.isprintable()
        if form == "json":
            assert json.loads(line)["model"] == model


#: In a name that an older version, or another program, wrote into the database.
HOSTILE = "a\x1b[2J\x9b1m\u202e\u200b\r\n0 1 2"
TAMED = r"a\x1b[2J\x9b1m\u202e\u200b\r\n0 1 2"


def test_a_hostile_name_is_one_plain_line_in_every_table(workplace: Workplace) -> None:
    workplace.fill([a_key(1, name=HOSTILE)], [a_record(1, model=HOSTILE)])
    since = ("--since", "2026-01-01")
    for command in (
        ["keys", "list"],
        ["keys", "show", "key00001"],
        ["usage", *since],
        ["usage", *since, "--by", "model"],
    ):
        done = workplace.run(*command)
        assert done.status == 0
        assert [line for line in done.out.splitlines() if TAMED in line], command
        assert all(char == "\n" or char.isprintable() for char in done.out), command


@pytest.mark.parametrize(
    "arguments",
    [
        ["--x" + HOSTILE],
        [HOSTILE],
        ["keys", "list", HOSTILE],
        ["keys", "show", "--y" + HOSTILE],
        ["serve", "--port", HOSTILE],
        ["usage", "--by", HOSTILE],
        ["keys", "show", HOSTILE],
        ["--config", HOSTILE, "keys", "list"],
    ],
    ids=lambda words: " ".join(words).replace(HOSTILE, "X"),
)
def test_a_complaint_repeats_no_control_character_of_the_command_line(
    workplace: Workplace, arguments: list[str]
) -> None:
    done = workplace.run(*arguments)
    assert done.status in (1, 2)
    assert all(char == "\n" or char.isprintable() for char in done.out + done.err)


@pytest.mark.parametrize(
    ("model", "written"),
    [
        ("claude-test-1", "model=claude-test-1 status=200"),
        (None, "model=- status=200"),
        ("-", 'model="-" status=200'),
        ("a status=529", 'model="a status=529" status=200'),
        ('a" status=529 b="', r'model="a\" status=529 b=\"" status=200'),
        ("a\u2028b\x85c", r'model="a\u2028b\x85c" status=200'),
        ("", 'model="" status=200'),
    ],
)
def test_a_value_in_an_access_line_is_one_value(
    monkeypatch: pytest.MonkeyPatch, model: str | None, written: str
) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(stream, "utf-8", write_through=True))
    set_up_logging(LogConfig(access=True), lambda: 0)
    fields = {"model": model, "status": 200}
    logging.getLogger("opuslive.access").info("request", extra={"fields": fields})
    assert stream.getvalue().decode().endswith(f" info: request {written}\n")


def test_help_is_ascii() -> None:
    def check(command: click.Command, path: str) -> None:
        with click.Context(command, info_name=path) as ctx:
            assert command.get_help(ctx).isascii(), path
        for name, inner in getattr(command, "commands", {}).items():
            check(inner, f"{path} {name}")

    check(main, "opuslive")
