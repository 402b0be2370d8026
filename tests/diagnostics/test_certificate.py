"""What it means how a client takes a certificate."""

from __future__ import annotations

import pytest

from opuslive.administration.certificate import CertificateStatus
from opuslive.config.sections import parse_config
from opuslive.diagnostics.certificate import DAY_SECONDS, Presented, judge, kept

NOW = 1_000_000_000.0


def found(code: int, days: float | None) -> dict[str, tuple[str, str]]:
    ends = None if days is None else NOW + days * DAY_SECONDS
    presented = Presented(code, "as OpenSSL says", ends)
    return {each.name: (each.level.value, each.text) for each in judge(presented, "a.example", NOW)}


@pytest.mark.parametrize(
    ("code", "level"), [(0, "ok"), (10, "error"), (62, "error"), (64, "error"), (20, "warning")]
)
def test_what_clients_say_is_the_level(code: int, level: str) -> None:
    assert found(code, 90)["certificate"][0] == level


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (14.5, "ok"), (13.9, "warning")])
def test_few_days_are_told(days: float, level: str) -> None:
    assert found(0, days)["certificate's end"][0] == level


def test_of_an_end_that_is_not_known_nothing_is_said() -> None:
    assert "certificate's end" not in found(10, None)


class TestKept:
    """The certificate that the gateway gets by itself."""

    SERVER = parse_config(
        {
            "server": {
                "port": 443,
                "public_url": "https://a.example",
                "tls": {"acme": "you@example.com"},
            }
        },
        source="test",
    ).server
    NOW = 1_800_000_000_000
    MONTH = NOW + 30 * DAY_SECONDS * 1000 + 1
    NEXT = "2027-01-15 09:00 UTC"

    def found(self, not_after: int | None, failure: str | None) -> tuple[str, str, str]:
        status = CertificateStatus(
            "a.example",
            None if not_after is None else self.NOW - 1000,
            not_after,
            next_attempt=self.NOW + 3_600_000,
            last_failure=failure,
        )
        (finding,) = kept(self.SERVER, status, self.NOW)
        assert finding.name == "certificate"
        return finding.level.value, finding.text, finding.remedy or ""

    def test_a_good_one_tells_when_it_is_renewed(self) -> None:
        told = f"good for a.example, and 30 days are left; it is renewed at {self.NEXT}"
        assert self.found(self.MONTH, None) == ("ok", told, "")

    @pytest.mark.parametrize(
        ("not_after", "level", "state"),
        [
            (MONTH, "warning", "good for a.example, and 30 days are left, but its renewal fails"),
            (None, "error", "there is none yet"),
            (NOW, "error", "ended at 2027-01-15 08:00 UTC"),
        ],
    )
    def test_a_failure_is_told_with_the_next_attempt(
        self, not_after: int | None, level: str, state: str
    ) -> None:
        found = self.found(not_after, "the certificate authority issues none")
        remedy = f"mend that; the next attempt is at {self.NEXT}, or at once with 'opuslive reload'"
        assert found == (level, f"{state}: the certificate authority issues none", remedy)

    def test_the_first_one_is_waited_for(self) -> None:
        level, text, remedy = self.found(None, None)
        assert (level, text) == ("warning", "there is none yet: clients refuse what is shown")
        assert remedy == "wait: it is asked for"

    def test_without_a_server_it_says_who_gets_it(self) -> None:
        (finding,) = kept(self.SERVER, None, self.NOW)
        assert (finding.level.value, finding.text) == (
            "ok",
            "is got and renewed by the server, while one runs",
        )

    def test_of_files_nothing_is_said(self) -> None:
        assert not list(kept(parse_config({}, source="test").server, None, self.NOW))
