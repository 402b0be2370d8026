"""``opuslive admin password``: into the configuration in use, or into a new one."""

from __future__ import annotations

import base64
import stat

import bcrypt
import pytest

from opuslive.config.sections import parse_config_text
from tests.support.workplace import SERVED, Workplace

pytestmark = SERVED

PASSWORD = "correct horse: battery ü"


def set_password(work: Workplace, password: str = PASSWORD) -> str:
    """Set it by standard input; return what is said."""
    outcome = work.run("admin", "password", "--password-stdin", input_=password + "\n")
    assert (outcome.status, outcome.err) == (0, "")
    return outcome.out


def test_the_password_that_is_set_lets_in_and_no_other(workplace: Workplace) -> None:
    before = workplace.config_file.read_bytes()
    workplace.config_file.chmod(0o644)
    said = set_password(workplace)
    assert str(workplace.config_file) in said
    assert "No server runs" in said
    assert PASSWORD not in said
    assert workplace.config_file.read_bytes().startswith(before)
    assert stat.S_IMODE(workplace.config_file.stat().st_mode) == 0o600
    assert PASSWORD not in workplace.config_file.read_text()
    with workplace.serving():
        for password, status in ((PASSWORD, 200), (PASSWORD[:-1], 401)):
            basic = base64.b64encode(f"admin:{password}".encode()).decode()
            headers = [("Authorization", f"Basic {basic}")]
            answer = workplace.request("GET", "/admin/api/status", headers=headers)
            assert answer.status == status


def test_a_new_file_serves_as_before_and_is_private(workplace: Workplace) -> None:
    done = workplace.run_bare("admin", "password", "--password-stdin", input_=PASSWORD)
    assert (done.status, done.err) == (0, "")
    made = workplace.home / "config.toml"
    assert f"{made}, a new file," in done.out
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    config = parse_config_text(made.read_text(), source="c.toml")
    (upstream,) = config.upstreams
    assert upstream.api_key_env == "ANTHROPIC_API_KEY"
    assert [path.name for path in workplace.home.iterdir()] == ["config.toml"]


def test_a_symbolic_link_to_the_configuration_stays(workplace: Workplace) -> None:
    target = workplace.folder / "real.toml"
    workplace.config_file.rename(target)
    workplace.config_file.symlink_to(target)
    set_password(workplace)
    assert workplace.config_file.is_symlink()
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
def test_what_can_be_no_password_is_refused(workplace: Workplace, password: str, said: str) -> None:
    before = workplace.config_file.read_bytes()
    outcome = workplace.run("admin", "password", "--password-stdin", input_=password + "\n")
    assert said in outcome.complaint
    assert workplace.config_file.read_bytes() == before


def test_a_password_that_is_not_utf_8_is_refused(workplace: Workplace) -> None:
    outcome = workplace.run(
        "admin", "password", "--password-stdin", input_="häslich" * 3, charset="latin-1"
    )
    assert outcome.complaint == "The password on standard input is not UTF-8 text."


def test_a_configuration_with_a_mistake_is_refused_and_stays(workplace: Workplace) -> None:
    workplace.config_file.write_text("[sevrer]\n")
    outcome = workplace.run("admin", "password", "--password-stdin", input_=PASSWORD)
    assert "sevrer" in outcome.complaint
    assert workplace.config_file.read_text() == "[sevrer]\n"


def test_a_folder_that_is_not_there_is_named(workplace: Workplace) -> None:
    workplace.config_file = workplace.folder / "none" / "config.toml"
    outcome = workplace.run("admin", "password", "--password-stdin", input_=PASSWORD)
    assert "can't be written" in outcome.complaint


def test_it_asks_twice_until_both_are_the_same(workplace: Workplace) -> None:
    typed = f"{PASSWORD}\nanother one\n{PASSWORD}\n{PASSWORD}\n"
    done = workplace.run("admin", "password", input_=typed)
    assert done.status == 0, done
    assert PASSWORD not in done.out + done.err
    assert (done.out + done.err).count("The same again") == 2
    text = workplace.config_file.read_text()
    hashed = parse_config_text(text, source="c").admin.password_hash
    assert hashed is not None
    assert bcrypt.checkpw(PASSWORD.encode(), hashed.encode())


def test_what_can_be_no_password_is_not_asked_for_twice(workplace: Workplace) -> None:
    done = workplace.run("admin", "password", input_=f"seven 7\n{PASSWORD}\n{PASSWORD}\n")
    assert done.status == 0, done
    said = done.out + done.err
    assert said.index("8 characters") < said.index("The same again")
    assert said.count("The same again") == 1


def test_admin_password_asks_nothing_where_nobody_answers(workplace: Workplace) -> None:
    before = workplace.config_file.read_bytes()
    assert workplace.run("admin", "password", input_="").status == 1
    assert workplace.config_file.read_bytes() == before
