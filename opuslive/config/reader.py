"""How a section of the configuration is declared, and how one is read.

A section is a frozen dataclass whose fields are named like its keys (see ``key_of``). The type of
a field says, as ``Annotated`` metadata, how the value is read, and its default is the default
of the key. So a key is declared once, in one line::

    port: Annotated[int, integer(0, 65535)] = 8080

A reader is a function of a value and of the value's place in the file. A reader returns the
value to keep, or raises an error that the place makes: it names the file and the key. A message
shows the value only where no secret can stand.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast, get_type_hints
from urllib.parse import SplitResult, urlsplit

from opuslive.errors import UsageError
from opuslive.quantities import (
    did_you_mean,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    shown,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: A type that TOML is read into → its name in messages. Other types are dates and times.
_KINDS: Mapping[type, str] = MappingProxyType(
    {
        bool: "true or false",
        str: "text",
        int: "a number",
        float: "a number with a decimal point",
        list: "a list",
    }
)
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")


class Reader(Protocol[T_co]):
    """Reads one value of the configuration. Raises UsageError."""

    def __call__(self, value: object, place: Place, /) -> T_co: ...


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value in a file, as error messages name the place.

    ``source`` is the file, ``path`` the keys that lead to the value; ``joint`` goes between
    ``path`` and the name of a key of the table that stands there.
    """

    source: str
    path: str = ""
    joint: str = ""

    def key(self, name: str) -> Place:
        quoted = name if _BARE_KEY.fullmatch(name) else shown(name)
        return Place(self.source, f"{self.path}{self.joint}{quoted}", ".")

    def item(self, number: int, name: object) -> Place:
        """The place of the table with this number, from 1, in an array of tables."""
        named = f" (name {shown(name)})" if isinstance(name, str) else ""
        return Place(self.source, f"[[{self.path}]] {number}{named}", ": ")

    def error(self, message: str) -> UsageError:
        path = f"{self.path}: " if self.path else ""
        return UsageError(f"{self.source}: {path}{message}")

    def wrong_type(self, value: object, wanted: str) -> UsageError:
        kind = (
            "a table" if isinstance(value, Mapping) else _KINDS.get(type(value), "a date or time")
        )
        return self.error(f"must be {wanted}, not {kind}")


def read_table(
    section: type[T],
    value: object,
    place: Place,
    check: Callable[[T, Place], None] | None = None,
) -> T:
    """Read a table into a section: each key by its reader. Raises UsageError.

    An unknown key is an error, and so is a missing one without a default. ``check`` holds rules
    about several keys at once.
    """
    if not isinstance(value, Mapping):
        raise place.wrong_type(value, "a table")
    readers = _readers(section)
    for key in value:
        if key not in readers:
            raise place.error(f"no such key {shown(key)}; {did_you_mean(key, readers)}")
    for field in dataclasses.fields(cast("Any", section)):
        optional = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if not optional and key_of(field) not in value:
            raise place.error(
                f"the key '{key_of(field)}' is missing; config.example.toml explains it"
            )
    fields = {key_of(field): field.name for field in dataclasses.fields(cast("Any", section))}
    read = section(
        **{fields[key]: readers[key](item, place.key(key)) for key, item in value.items()}
    )
    if check is not None:
        check(read, place)
    return read


def key_of(field: dataclasses.Field[Any]) -> str:
    """The key that a field is read from: a word of Python's has an underscore behind it there."""
    return field.name.removesuffix("_")


def table(section: type[T], check: Callable[[T, Place], None] | None = None) -> Reader[T]:
    """A table with a section of its own, such as ``[server.tls]``."""
    return lambda value, place: read_table(section, value, place, check)


def tables(
    section: type[T], check: Callable[[T, Place], None] | None = None
) -> Reader[tuple[T, ...]]:
    """An array of tables, each with a ``name`` that no other one has."""

    def read(value: object, place: Place) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise place.wrong_type(
                value, f"an array of tables, each beginning with [[{place.path}]]"
            )
        names: set[str] = set()
        items: list[T] = []
        for number, item in enumerate(value, start=1):
            name = item.get("name") if isinstance(item, Mapping) else None
            here = place.item(number, name)
            items.append(read_table(section, item, here, check))
            if name in names:
                raise here.error("another one has this name already; give each a name of its own")
            names.add(cast("str", name))
        return tuple(items)

    return read


def mapping(key: Reader[str], item: Reader[T]) -> Reader[Mapping[str, T]]:
    """A table whose keys are names that the administrator chooses."""

    def read(value: object, place: Place) -> Mapping[str, T]:
        if not isinstance(value, Mapping):
            raise place.wrong_type(value, "a table")
        return MappingProxyType(
            {
                key(name, place.key(name)): item(entry, place.key(name))
                for name, entry in value.items()
            }
        )

    return read


def sequence(item: Reader[T]) -> Reader[tuple[T, ...]]:
    """A list of values of one kind."""

    def read(value: object, place: Place) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise place.wrong_type(value, 'a list, such as [] or ["…"]')
        return tuple(item(entry, place) for entry in value)

    return read


def string(value: object, place: Place) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise place.wrong_type(value, "text in quotes")
    return value


def text(value: object, place: Place) -> str:
    """One line of 1 to 1000 printable characters without blanks around it."""
    line = string(value, place)
    if not line or len(line) > 1000 or not line.isprintable() or line != line.strip():
        raise place.error(
            "must be one line of 1 to 1000 printable characters without blanks around it"
        )
    return line


def host_name(value: object, place: Place) -> str:
    """A host name or an IP address."""
    host = string(value, place)
    if not _is_host(host):
        raise place.error(
            'must be a host name or an IP address without brackets or port, such as "127.0.0.1"'
        )
    return host


def web_url(value: object, place: Place, *, query: bool = False) -> SplitResult:
    """An absolute http or https URL, made uniform: no slash at the end, the host in lower case.

    The URL has a host, and no user name, password or fragment; a query only if ``query`` allows
    one. Messages don't show the URL, which may hold a password.
    """
    example = 'must be an address such as "https://api.example.com"'
    url = text(value, place)
    # urlsplit would drop tabs and line ends silently, and clients differ about backslashes.
    if not re.fullmatch(r"[!-\[\]-~]+", url):
        raise place.error(f"{example}, in ASCII and without spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise place.error(example) from None
    if "@" in parts.netloc:
        raise place.error(f"{example}, without a user name or password")
    if parts.scheme not in ("http", "https") or not _is_host(host) or port == 0:
        raise place.error(example)
    if "#" in url or ("?" in url and not query):
        raise place.error(f"{example}, without '?' or '#' and what follows")
    netloc = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    return parts._replace(netloc=netloc, path=parts.path.rstrip("/"))


def is_loopback(host: str) -> bool:
    """Whether the host is this machine and nothing else: ``localhost``, 127.0.0.0/8 or ::1."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST_NAME.fullmatch(host) is not None
    return True


def matching(pattern: str, wanted: str) -> Reader[str]:
    """Text that matches the whole regular expression; ``wanted`` says so in words.

    Messages don't show the value: it may be a secret, or a secret that stands by mistake where
    its name belongs.
    """
    compiled = re.compile(pattern)

    def read(value: object, place: Place) -> str:
        if not isinstance(value, str):
            raise place.wrong_type(value, wanted)
        if compiled.fullmatch(value) is None:
            raise place.error(f"must be {wanted}")
        return value

    return read


def one_of(*choices: str) -> Reader[str]:
    """One of a few words."""

    def read(value: object, place: Place) -> str:
        if not isinstance(value, str):
            raise place.wrong_type(value, " or ".join(f'"{choice}"' for choice in choices))
        if value not in choices:
            raise place.error(f"{shown(value)} is not possible; {did_you_mean(value, choices)}")
        return value

    return read


def boolean(value: object, place: Place) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise place.wrong_type(value, "true or false, without quotes")
    return value


def integer(low: int, high: int) -> Reader[int]:
    """A whole number, both bounds included."""

    def read(value: object, place: Place) -> int:
        wanted = f"a whole number from {low} to {high}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise place.wrong_type(value, wanted)
        if not low <= value <= high:
            raise place.error(f"must be {wanted}")
        return value

    return read


def number(low: float, high: float) -> Reader[float]:
    """A number, whole or not, both bounds included."""

    def read(value: object, place: Place) -> float:
        wanted = f"a number from {low:g} to {high:g}"
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise place.wrong_type(value, wanted)
        # False for nan. Compared before the conversion, which fails for a number too large.
        if not low <= value <= high:
            raise place.error(f"must be {wanted}")
        return float(value)

    return read


def duration(low: float, high: float) -> Reader[float]:
    """A duration such as ``"90s"``, in seconds, both bounds included."""

    def read(value: object, place: Place) -> float:
        if not isinstance(value, str):
            raise place.wrong_type(value, 'a duration in quotes, such as "90s" or "10m"')
        seconds = converted(parse_duration, value, place)
        if not low <= seconds <= high:
            bounds = f"from '{format_duration(low)}' to '{format_duration(high)}'"
            raise place.error(f"must be a duration {bounds}")
        return seconds

    return read


def size(low: int, high: int) -> Reader[int]:
    """A size such as ``"32MB"``, in bytes, both bounds included."""

    def read(value: object, place: Place) -> int:
        if not isinstance(value, str):
            raise place.wrong_type(value, 'a size in quotes, such as "64KB" or "32MB"')
        read_size = converted(parse_size, value, place)
        if not low <= read_size <= high:
            raise place.error(f"must be a size from '{format_size(low)}' to '{format_size(high)}'")
        return read_size

    return read


def converted(parse: Callable[[Any], T], value: object, place: Place) -> T:
    """``parse(value)``; the message of a UsageError gets the place put before it."""
    try:
        return parse(value)
    except UsageError as error:
        raise place.error(error.message) from None


def _readers(section: type[object]) -> Mapping[str, Reader[Any]]:
    hints = get_type_hints(section, include_extras=True)
    return {
        key_of(field): hints[field.name].__metadata__[0]
        for field in dataclasses.fields(cast("Any", section))
    }
