"""Short ways to read a configuration that a test writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from opuslive.config.reader import key_of
from opuslive.config.sections import Config, parse_config_text
from opuslive.errors import UsageError

#: Where the sections are declared.
_SECTIONS = Config.__module__.rpartition(".")[0]


def parse(toml: str) -> Config:
    return parse_config_text(toml, source="config.toml")


def refusal(toml: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(toml)
    return caught.value.message


def upstream(keys: str, *, url: str = "https://api.example.com") -> str:
    return f'[[upstreams]]\nname = "one"\nbase_url = "{url}"\n{keys}\n'


def with_key(url: str) -> str:
    return upstream('api_key_env = "KEY"', url=url)


def known_keys(section: type, path: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every key that the code knows, by its dotted path; ``*`` stands for names of one's own."""
    hints = get_type_hints(section)
    for field in dataclasses.fields(section):
        inner = [part for part in _parts(hints[field.name]) if dataclasses.is_dataclass(part)]
        here = f"{path}{key_of(field)}"
        if "Mapping" in str(hints[field.name]):
            here += ".*"
        # Limit is a value that is written as text, not a section.
        if inner and isinstance(inner[0], type) and inner[0].__module__.startswith(_SECTIONS):
            yield from known_keys(inner[0], f"{here}.")
        else:
            yield here, field


def _parts(hint: object) -> Iterator[object]:
    yield hint
    for argument in get_args(hint):
        yield from _parts(argument)
