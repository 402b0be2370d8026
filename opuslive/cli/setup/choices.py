"""What the options of ``opuslive init`` say."""

from __future__ import annotations

from dataclasses import dataclass

import click


@dataclass(frozen=True, slots=True)
class Choices:
    """What the options say; None for what they leave open."""

    provider: str | None
    credential_file: str | None
    credential_env: str | None
    host_name: str | None
    acme: str | None
    behind_proxy: bool
    host: str | None
    port: str | None
    database: str | None
    contact: str | None
    admin_password_stdin: bool
    no_admin: bool
    key: str | None
    limits: tuple[str, ...]
    no_verify: bool

    def check(self) -> None:
        """Raises click.UsageError for options that exclude each other."""
        for one, other, both in (
            ("--credential-file", "--credential-env", self.credential_file and self.credential_env),
            ("--acme", "--behind-proxy", self.acme and self.behind_proxy),
            ("--admin-password-stdin", "--no-admin", self.admin_password_stdin and self.no_admin),
        ):
            if both:
                raise click.UsageError(f"Give {one} or {other}, not both.")
