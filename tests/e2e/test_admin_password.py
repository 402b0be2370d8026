"""``opuslive admin password``: into the configuration in use, and nothing else of it changes."""

from __future__ import annotations

import base64
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from opuslive.cli.root import main
from opuslive.config.edit import with_password_hash
from opuslive.config.sections import parse_config_text
from opuslive.errors import UsageError
from tests.e2e.conftest import Servers
from tests.support.provider import ScriptedUpstream

OLD = "$2b$12$" + "a" * 53
NEW = "$2b$12$" + "b" * 53
PASSWORD = "correct horse: battery ü"

LOOKS_LIKE_IT = '''\
[[upstreams]]
base_url = "http://127.0.0.1:1"
name = """
[admin] # is no section\\
"""
'''

#: Configurations, and what the line of the hash turns them into.
EDITS = {
    "empty": ("", f'\n[admin]\npassword_hash = "{NEW}"\n'),
    "no section": (
        "[server]\nport = 1 # mine",
        f'[server]\nport = 1 # mine\n\n[admin]\npassword_hash = "{NEW}"\n',
    ),
    "a section": (
        '[admin] # who\n\ncontact = "x"\n[log]\n',
        f'[admin] # who\npassword_hash = "{NEW}"\n\ncontact = "x"\n[log]\n',
    ),
    "a section at the end": ("[ admin ]", f'[ admin ]\npassword_hash = "{NEW}"\n'),
    "an old hash": (
        f'[admin]\ncontact = "x"\n  password_hash="{OLD}" # old\n[log]\n',
        f'[admin]\ncontact = "x"\n  password_hash="{NEW}" # old\n[log]\n',
    ),
    "an old hash in single quotes": (
        f"[admin]\npassword_hash = '{OLD}'",
        f'[admin]\npassword_hash = "{NEW}"',
    ),
    "a dotted key": (f'admin.password_hash = "{OLD}"\n', f'admin.password_hash = "{NEW}"\n'),
    "a hash that is switched off": (
        f'[admin]\n#password_hash = "{OLD}"\n',
        f'[admin]\npassword_hash = "{NEW}"\n#password_hash = "{OLD}"\n',
    ),
    "line ends of Windows": (
        '[admin]\r\ncontact = "é"\r\n',
        f'[admin]\r\npassword_hash = "{NEW}"\r\ncontact = "é"\r\n',
    ),
    "a text that looks like a section": (
        f"{LOOKS_LIKE_IT}[admin]\n",
        f'{LOOKS_LIKE_IT}[admin]\npassword_hash = "{NEW}"\n',
    ),
}


@pytest.mark.parametrize(("before", "after"), EDITS.values(), ids=EDITS)
def test_only_the_hash_changes(before: str, after: str) -> None:
    assert with_password_hash(before, NEW, "c.toml") == after
    assert parse_config_text(after, source="c.toml").admin.password_hash == NEW


def test_the_example_keeps_every_comment() -> None:
    example = Path(__file__).parents[2].joinpath("config.example.toml").read_text()
    after = with_password_hash(example, NEW, "c.toml")
    assert after.replace(f'password_hash = "{NEW}"\n', "", 1) == example


def test_a_way_to_write_it_that_is_not_understood() -> None:
    text = f'admin = {{ contact = "x", "password_hash" = "{OLD}" }}\n'
    with pytest.raises(UsageError) as raised:
        with_password_hash(text, NEW, "c.toml")
    assert "write [admin]" in raised.value.message


_LINES = st.lists(
    st.sampled_from(
        [
            "[admin]",
            "[log]",
            f'password_hash = "{OLD}"',
            'contact = "[admin]"',
            "contact = '''",
            "'''",
            "# [admin]",
            f'#password_hash = "{OLD}"',
            'level = "info"',
            "",
        ]
    ),
    max_size=8,
)


@settings(derandomize=True, database=None)
@given(lines=_LINES, ends=st.sampled_from(["\n", "\r\n"]))
def test_whatever_is_edited_means_the_same(lines: list[str], ends: str) -> None:
    text = ends.join(lines)
    try:
        before: dict[str, Any] = tomllib.loads(text)
        parse_config_text(text, source="c.toml")
    except (UsageError, tomllib.TOMLDecodeError):
        return
    after = tomllib.loads(with_password_hash(text, NEW, "c.toml"))
    assert after.pop("admin") == before.pop("admin", {}) | {"password_hash": NEW}
    assert after == before


class TestTheCommand:
    async def test_sets_a_password_that_lets_in(
        self, servers: Servers, provider: ScriptedUpstream
    ) -> None:
        server = servers.make(provider.base_url)
        before = server.config_file.read_bytes()
        server.config_file.chmod(0o644)
        outcome = await server.run("admin", "password", "--password-stdin", input_=PASSWORD + "\n")
        assert (outcome.status, outcome.err) == (0, "")
        assert str(server.config_file) in outcome.out
        assert "restarted" in outcome.out
        assert PASSWORD not in outcome.out
        assert server.config_file.read_bytes().startswith(before)
        assert stat.S_IMODE(server.config_file.stat().st_mode) == 0o600
        assert PASSWORD not in server.config_file.read_text()
        await server.start()
        for password, status in ((PASSWORD, 200), (PASSWORD[:-1], 401)):
            basic = base64.b64encode(f"admin:{password}".encode()).decode()
            headers = [("Authorization", f"Basic {basic}")]
            answer = await server.request("GET", "/admin/api/status", headers=headers)
            assert answer.status == status

    async def test_makes_a_file_that_serves_as_before(
        self, servers: Servers, provider: ScriptedUpstream
    ) -> None:
        server = servers.make(provider.base_url)
        home = server.folder / "home"
        command = [*server.command()[:3], "admin", "password", "--password-stdin"]
        done = subprocess.run(
            command, env=server.environ, cwd=home, input=PASSWORD.encode(), capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, b"")
        made = home / "config.toml"
        assert f"{made}, a new file," in done.stdout.decode()
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        config = parse_config_text(made.read_text(), source="c.toml")
        (upstream,) = config.upstreams
        assert upstream.api_key_env == "ANTHROPIC_API_KEY"
        assert [path.name for path in home.iterdir()] == ["config.toml"]

    async def test_follows_a_link(self, servers: Servers, provider: ScriptedUpstream) -> None:
        server = servers.make(provider.base_url)
        target = server.folder / "real.toml"
        server.config_file.rename(target)
        server.config_file.symlink_to(target)
        outcome = await server.run("admin", "password", "--password-stdin", input_=PASSWORD)
        assert outcome.status == 0
        assert server.config_file.is_symlink()
        assert "password_hash" in target.read_text()

    @pytest.mark.parametrize(
        ("password", "said"),
        [
            ("", "8 characters"),
            ("seven 7", "8 characters"),
            ("x" * 73, "72 bytes"),
            ("\x07" * 9, "printable"),
        ],
    )
    async def test_refuses_what_can_be_no_password(
        self, servers: Servers, provider: ScriptedUpstream, password: str, said: str
    ) -> None:
        server = servers.make(provider.base_url)
        before = server.config_file.read_bytes()
        outcome = await server.run("admin", "password", "--password-stdin", input_=password + "\n")
        assert said in outcome.complaint
        assert server.config_file.read_bytes() == before

    async def test_refuses_a_configuration_with_a_mistake(
        self, servers: Servers, provider: ScriptedUpstream
    ) -> None:
        server = servers.make(provider.base_url)
        server.config_file.write_text("[sevrer]\n")
        outcome = await server.run("admin", "password", "--password-stdin", input_=PASSWORD)
        assert "sevrer" in outcome.complaint
        assert server.config_file.read_text() == "[sevrer]\n"

    async def test_a_place_that_is_not_there(
        self, servers: Servers, provider: ScriptedUpstream
    ) -> None:
        server = servers.make(provider.base_url)
        server.config_file = server.folder / "none" / "config.toml"
        outcome = await server.run("admin", "password", "--password-stdin", input_=PASSWORD)
        assert "can't be written" in outcome.complaint


def test_it_asks_twice(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    runner = CliRunner()
    command = ["--config", str(config), "admin", "password"]
    typed = f"{PASSWORD}\nanother one\n{PASSWORD}\n{PASSWORD}\n"
    done = runner.invoke(main, command, input=typed)
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert done.output.count("The same again") == 2
    hashed = parse_config_text(config.read_text(), source="c").admin.password_hash
    assert hashed is not None
    assert bcrypt.checkpw(PASSWORD.encode(), hashed.encode())
    assert runner.invoke(main, command, input="").exit_code == 1
