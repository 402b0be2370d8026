"""All that is to be made."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opuslive.administration.keys import checked_name
from opuslive.administration.password import USER, checked_password, hash_password, make_password
from opuslive.cli.admin import read_password
from opuslive.cli.questions import Questions
from opuslive.cli.setup.choices import Choices
from opuslive.cli.setup.provider import CREDENTIAL_FILE, provider_of, tried_credential
from opuslive.cli.setup.server import address_of, listening_of
from opuslive.config.create import Installation, configuration_text
from opuslive.config.files import (
    SYSTEM_CONFIG,
    Settings,
    database_url,
)
from opuslive.config.reader import Place, text
from opuslive.config.sections import (
    Config,
    parse_config_text,
)
from opuslive.errors import UsageError
from opuslive.limits.grammar import parse_limits
from opuslive.storage import database_path

#: The user that a service runs as, where the system has that user.
SERVICE_USER = "opuslive"
SERVICE_DATABASE = "/var/lib/opuslive/opuslive.db"
FIRST_KEY = "first"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make. ``files``: path → text.

    ``credential_file`` and ``admin_password`` are None if they are not made here; ``models`` is
    how many the provider lists, None if nobody asked. ``address`` is where clients reach the
    gateway. ``service`` is the user that the files and the database are for, None for this one.
    """

    path: Path
    files: Mapping[Path, str] = field(repr=False)
    settings: Settings
    database: Path
    credential_file: Path | None
    models: int | None
    admin_password: str | None = field(repr=False)
    key: str
    limits: tuple[str, ...]
    address: str
    service: pwd.struct_passwd | None


def plan(choices: Choices, path: Path, questions: Questions, environ: Mapping[str, str]) -> Plan:
    """Ask, try and hash everything that the configuration at ``path`` needs. Raises UsageError."""
    choices.check()
    service = _service_user(path)
    provider = provider_of(choices, questions)
    upstream, credential, listing = tried_credential(choices, provider, path, questions, environ)
    listening = listening_of(choices, questions)
    database = _database(choices, path, questions, environ)
    contact = questions.ask(
        "Whom holders of keys may ask (shown to them; Enter: nobody)",
        lambda answer: text(answer, Place("--contact")) if answer else None,
        given=choices.contact,
        default="",
        flag="--contact",
    )
    made_password, password_hash = _password(choices, questions)
    key = questions.ask(
        "Name of the first key (it is kept)",
        lambda answer: checked_name(answer, "key"),
        given=choices.key,
        default=FIRST_KEY,
        flag="--key",
    )
    limits = _limits(choices, questions)
    installation = Installation(
        upstream=upstream,
        listening=listening,
        password_hash=password_hash,
        contact=contact,
        database=str(database),
    )
    toml = configuration_text(installation, str(path))
    files = {path: toml}
    typed = upstream.api_key_file == CREDENTIAL_FILE and choices.credential_file is None
    credential_file = path.parent / CREDENTIAL_FILE if typed else None
    if credential_file is not None:
        # The configuration comes last: with it, all is there.
        files = {credential_file: f"{credential}\n", path: toml}
    return Plan(
        path=path,
        files=files,
        settings=Settings(parse_config_text(toml, source=str(path)), path.parent),
        database=database,
        credential_file=credential_file,
        models=None if listing is None else len(listing.models),
        admin_password=made_password,
        key=key,
        limits=limits,
        address=address_of(listening),
        service=service,
    )


def _service_user(path: Path) -> pwd.struct_passwd | None:
    """The user of the service, if root makes the system's configuration, and there is that user."""
    if os.geteuid() != 0 or path != SYSTEM_CONFIG:
        return None
    try:
        return pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None


def _database(
    choices: Choices, path: Path, questions: Questions, environ: Mapping[str, str]
) -> Path:
    default: str | None = SERVICE_DATABASE
    if os.geteuid() != 0 or path != SYSTEM_CONFIG:
        try:
            default = str(database_path(database_url(Config(), environ)))
        except UsageError:
            default = None  # This user has no home.
    return questions.ask(
        "File for keys and usage",
        lambda answer: database_path(f"sqlite://{Path(answer).absolute()}"),
        given=choices.database,
        default=default,
        flag="--database",
    )


def _password(choices: Choices, questions: Questions) -> tuple[str | None, str | None]:
    """A password that was made, and the hash of that or of the one that was given."""
    if choices.no_admin:
        return None, None
    if choices.admin_password_stdin:
        return None, hash_password(read_password())
    if questions.asking:
        typed = questions.new_secret(
            f"Password of the user {USER!r} (not shown; Enter: one is made)",
            checked_password,
            optional=True,
        )
        if typed:
            return None, hash_password(typed)
    made = make_password()
    return made, hash_password(made)


def _limits(choices: Choices, questions: Questions) -> tuple[str, ...]:
    def read(answer: str) -> tuple[str, ...]:
        limits = tuple(part.strip() for part in answer.split(",") if part.strip())
        parse_limits(limits)
        return limits

    if choices.limits:
        parse_limits(choices.limits)
        return choices.limits
    return questions.ask(
        "Its limits, such as 60 requests/1m, 20 usd/month (Enter: none)",
        read,
        given=None,
        default="",
        flag="--limit",
    )
