"""What README and its pages name is there: commands, options, keys, files, places in pages."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import click
import pytest

from opuslive.cli import main
from opuslive.config.sections import Config
from tests.support.config_keys import all_keys
from tests.support.documents import README, ROOT, blocks, code, files
from tests.support.toml import known_keys, parse

EVERY = pytest.mark.parametrize("file", files(), ids=lambda file: file.name)


def every_command(
    group: click.Command = main, words: tuple[str, ...] = ()
) -> dict[str, click.Command]:
    """``keys create`` → the command, and so on; "" for the program itself."""
    found = {" ".join(words): group}
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            found |= every_command(command, (*words, name))
    return found


COMMANDS = every_command()


def options_of(command: click.Command) -> set[str]:
    declared = {name for parameter in command.params for name in parameter.opts}
    return declared | set(command.get_help_option_names(click.Context(command)))


EVERY_OPTION = set().union(*map(options_of, COMMANDS.values()))


def complaint(line: str) -> str | None:
    """What is wrong with a line of code, as far as it calls this program."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None  # No line of a shell.
    called = [at for at, word in enumerate(words) if re.fullmatch(r"opuslive|.*bin/opuslive", word)]
    podman = words[:1] == ["podman"] and words[1] != "build"
    if not podman:
        # (Else it is a user or a folder.)
        called = [at for at in called if at == 0 or words[at - 1] in {"sudo", "&&", ";"}]
    if not called:
        return None
    # (In a line of podman, what comes last is the image; before it, names.)
    return _complaint(words[called[-1 if podman else 0] + 1 :])


def _complaint(words: list[str]) -> str | None:
    command: click.Command = main
    name = ""
    while words and isinstance(command, click.Group):
        word = words.pop(0)
        if word.startswith("-"):
            if word not in options_of(command):
                return f"{name} has no option {word}"
            if word == "--config":
                words.pop(0)
        elif not re.fullmatch(r"[a-z|]+", word):
            return None  # A path, or a piped command.
        else:
            for each in word.split("|"):
                if each not in command.commands:
                    return f"{name} has no command {each}"
            command, name = command.commands[word.split("|")[0]], f"{name} {word}".strip()
    known = options_of(command)
    for word in words:
        if word in {"|", ">", ">>", "&&", ";"}:
            break
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known:
            return f"{name} has no option {option}"
    return None


@EVERY
def test_every_command_line_is_one_that_the_program_takes(file: Path) -> None:
    wrong = [(line, why) for line in code(file.read_text("utf-8")) if (why := complaint(line))]
    assert wrong == []


@EVERY
def test_every_option_that_is_named_alone_is_one_of_a_command(file: Path) -> None:
    named = {
        span.split()[0].partition("=")[0]
        for span in code(file.read_text("utf-8"))
        if span.startswith("--")
    }
    assert named - EVERY_OPTION == set()


@EVERY
def test_every_command_that_is_named_alone_is_one(file: Path) -> None:
    """``keys create`` in a sentence, and ``keys creat`` too, are meant for commands."""
    groups = {name for name, command in COMMANDS.items() if isinstance(command, click.Group)}
    for span in code(file.read_text("utf-8")):
        first, _, second = span.partition(" ")
        if first in groups and re.fullmatch(r"[a-z]+( .*)?", second):
            assert f"{first} {second.split()[0]}" in COMMANDS, span


@EVERY
def test_every_key_of_the_configuration_that_is_named_is_one(file: Path) -> None:
    keys = {re.sub(r"\.\*$", "", path) for path, _ in known_keys(Config)} | set(all_keys())
    sections = {field.name for field in dataclasses.fields(Config)} | {
        "server.tls",
        "limits.groups",
        "alerts.smtp",
    }
    for line in code(file.read_text("utf-8")):
        for section, key in re.findall(r"\[+([a-z._]+)\]+(?: ([a-z_0-9]+)\b)?", line):
            if section in sections:
                assert not key or f"{section}.{key}" in keys, line
            else:
                # Not TOML: a list of something, or a part of another program's configuration.
                assert "." not in section, line
                assert section in {"acme", "model_providers"}, line


@EVERY
def test_every_block_of_toml_is_a_configuration(file: Path) -> None:
    for block in blocks(file.read_text("utf-8")):
        if block.language == "toml":
            parse(block.text)


@EVERY
def test_every_link_leads_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", file.read_text("utf-8")):
        assert "://" not in target, "the pages need no other host"
        path, _, place = target.partition("#")
        leads_to = (file.parent / path).resolve() if path else file
        assert leads_to.exists(), target
        if place:
            assert place in {anchor(line) for line in headings(leads_to)}, target


def headings(file: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)


def anchor(heading: str) -> str:
    """How the place of a heading is called in an address."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_page_is_linked_from_the_first() -> None:
    text = README.read_text("utf-8")
    for file in files()[1:]:
        assert f"({file.relative_to(ROOT)})" in text, file.name


def test_the_two_commands_of_the_first_minute_are_there() -> None:
    lines = README.read_text("utf-8").splitlines()[:60]
    first = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/opuslive serve --sandbox"
    assert f"    {first}" in lines
    assert "    sh tests/run" in lines


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("opuslive keys creat alice", "keys has no command creat"),
        ("sudo opuslive init --yes --acm me@example.com", "init has no option --acm"),
        ("opuslive --confg F serve", " has no option --confg"),
        ("/opt/opuslive/bin/opuslive frob", " has no command frob"),
        ("opuslive serve --sandbox > opuslive.log --not-ours", None),
    ],
)
def test_a_wrong_line_would_be_found(line: str, why: str | None) -> None:
    assert complaint(line) == why
