"""Where the configuration, the database and the control socket are, and who may read files."""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path

import pytest

from opuslive.config.files import (
    MAX_SOCKET_PATH,
    SYSTEM_CONFIG,
    config_path,
    control_path,
    database_url,
    load_settings,
    others_may_read,
)
from opuslive.config.sections import (
    DEFAULT_UPSTREAM,
    Config,
    StorageConfig,
    with_default_upstream,
)
from opuslive.errors import UsageError

SECRET = "[alerts]\nwebhook = 'https://hooks.example.com/canary'\n"


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which XDG_CONFIG_HOME is a folder; the working folder is another one."""
    for folder in ("work", "xdg/opuslive"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}


def test_the_first_configuration_that_is_there_is_used(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    nothing = SYSTEM_CONFIG if SYSTEM_CONFIG.is_file() else None
    assert config_path(None, environ) == nothing
    xdg = tmp_path / "xdg" / "opuslive" / "config.toml"
    xdg.touch()
    assert config_path(None, environ) == xdg
    Path("config.toml").touch()
    assert config_path(None, environ) == Path("config.toml")
    assert config_path(None, environ | {"OPUSLIVE_CONFIG": "other"}) == Path("other")
    assert config_path("named", environ | {"OPUSLIVE_CONFIG": "other"}) == Path("named")


def test_a_named_configuration_has_to_be_there(tmp_path: Path, environ: dict[str, str]) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(UsageError) as raised:
        load_settings(str(missing), environ)
    assert raised.value.message == (
        f"The configuration {missing} can't be read: No such file or directory."
    )


def test_a_configuration_that_is_not_utf_8_is_refused(environ: dict[str, str]) -> None:
    Path("config.toml").write_bytes(b"# \xff")
    with pytest.raises(UsageError, match="can't be read: it is not UTF-8 text"):
        load_settings(None, environ)


@pytest.mark.skipif(SYSTEM_CONFIG.is_file(), reason="this machine has a configuration of its own")
def test_without_a_file_the_defaults_are_used(environ: dict[str, str]) -> None:
    environ["ANTHROPIC_API_KEY"] = "sk"
    settings = load_settings(None, environ)
    assert settings.config == with_default_upstream(Config(), environ)
    assert settings.warning is None


def test_paths_are_relative_to_the_folder_of_the_file(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    path = tmp_path / "xdg" / "opuslive" / "config.toml"
    path.write_text("[server]\nport = 1\n")
    settings = load_settings(None, environ)
    assert (settings.folder, settings.config.server.port) == (path.parent, 1)


@pytest.mark.parametrize(
    ("text", "mode", "warned"),
    [(SECRET, 0o644, True), (SECRET, 0o600, False), ("", 0o644, False)],
)
def test_only_a_secret_that_others_may_read_is_warned_of(
    environ: dict[str, str], text: str, mode: int, warned: bool
) -> None:
    path = Path("config.toml")
    path.write_text(text)
    path.chmod(mode)
    warning = load_settings(None, environ).warning
    if warned:
        assert warning == (
            "config.toml holds a secret and others may read it (mode 0644); "
            "run 'chmod 600 config.toml'."
        )
    else:
        assert warning is None


@pytest.mark.parametrize(
    ("mode", "own", "told"),
    [
        (0o600, True, False),
        (0o400, True, False),
        (0o640, True, True),
        (0o644, True, True),
        (0o602, True, True),
        (0o640, False, False),  # somebody else's, such as root's: the group is how we read it
        (0o644, False, True),
    ],
)
def test_modes_that_let_others_read_a_file(mode: int, own: bool, told: bool) -> None:
    owner = os.geteuid() + (0 if own else 1)
    status = os.stat_result((0o100000 | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    assert others_may_read(status) is told


def test_the_database_is_where_the_configuration_says_or_else_xdg() -> None:
    configured = Config(storage=StorageConfig(url="sqlite:///var/x.db"))
    assert database_url(configured, {"XDG_STATE_HOME": "/state"}) == "sqlite:///var/x.db"
    found = database_url(Config(), {"XDG_STATE_HOME": "/state"})
    assert found == "sqlite:///state/opuslive/opuslive.db"
    assert database_url(Config(), {}).endswith("/.local/state/opuslive/opuslive.db")


def test_the_control_socket_is_beside_the_database_unless_its_path_is_too_long() -> None:
    runtime = {"XDG_RUNTIME_DIR": "/run/user/1"}
    assert control_path("sqlite:///var/x.db", runtime) == Path("/var/x.db.sock")
    longest = "/" + "d" * (MAX_SOCKET_PATH - len("/.sock"))
    assert control_path(f"sqlite://{longest}", runtime) == Path(f"{longest}.sock")
    moved = control_path(f"sqlite://{longest}d", runtime)
    assert moved.parent == Path("/run/user/1")
    assert moved != control_path(f"sqlite://{longest}e", runtime)
    assert control_path(f"sqlite://{longest}d", {}) == Path(f"{longest}d.sock")


@pytest.mark.parametrize("text", ["", "[storage]\nurl = 'sqlite:///var/x.db'\n", "upstreams = []"])
def test_without_upstreams_in_a_file_the_default_one_is_used_if_its_key_is_there(
    environ: dict[str, str], text: str
) -> None:
    Path("config.toml").write_text(text)
    assert load_settings(None, environ).config.upstreams == ()
    environ["ANTHROPIC_API_KEY"] = "sk"
    assert load_settings(None, environ).config.upstreams == (DEFAULT_UPSTREAM,)
    assert load_settings("config.toml", environ).config.upstreams == (DEFAULT_UPSTREAM,)


def test_upstreams_in_a_file_are_all_there_are(environ: dict[str, str]) -> None:
    written = "[[upstreams]]\nname = 'own'\nbase_url = 'http://127.0.0.1:9'\n"
    Path("config.toml").write_text(written)
    environ["ANTHROPIC_API_KEY"] = "sk"
    assert [each.name for each in load_settings(None, environ).config.upstreams] == ["own"]


# What is no absolute path counts as not set; what may not be looked at is somebody else's.


@pytest.mark.parametrize("folder", ["", "relative", "./relative", "~"])
def test_a_variable_that_is_no_absolute_path_counts_as_none(
    tmp_path: Path, environ: dict[str, str], folder: str
) -> None:
    environ = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"), folder)
    environ["HOME"] = str(tmp_path)
    expected = f"sqlite://{tmp_path}/.local/state/opuslive/opuslive.db"
    assert database_url(Config(), environ) == expected
    long = "/" + "d" * MAX_SOCKET_PATH
    assert control_path(f"sqlite://{long}", environ) == Path(f"{long}.sock")
    config = tmp_path / ".config" / "opuslive" / "config.toml"
    config.parent.mkdir(parents=True)
    config.touch()
    assert config_path(None, environ) == config


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_no_absolute_path_is_that_of_the_list_of_users(home: str) -> None:
    own = pwd.getpwuid(os.getuid()).pw_dir
    expected = f"sqlite://{own}/.local/state/opuslive/opuslive.db"
    assert database_url(Config(), {"HOME": home}) == expected


def test_a_configuration_in_a_folder_that_may_not_be_entered_is_not_ours(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "xdg" / "opuslive" / "config.toml"
    mine.touch()
    forbidden = {Path("config.toml")}
    stat_of = Path.stat

    def guarded(self: Path, **options: bool) -> os.stat_result:
        """As the kernel does for a user that is not root."""
        if self in forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return stat_of(self, **options)

    monkeypatch.setattr(Path, "stat", guarded)
    assert config_path(None, environ) == mine
    forbidden.add(mine)
    assert config_path(None, environ) in (None, SYSTEM_CONFIG)
    forbidden.add(SYSTEM_CONFIG)
    assert config_path(None, environ) == SYSTEM_CONFIG
