"""``opuslive keys invite``: let a key's holder make its next secret, seen by nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from opuslive.cli import completing
from opuslive.cli.control import run
from opuslive.cli.output import echo, json_option, print_json
from opuslive.config.files import Settings


@click.command()
@click.argument("key", shell_complete=completing.keys)
@click.option("--revoke", is_flag=True, help="Call the link back that was made before.")
@json_option
@click.pass_obj
def invite(load: Callable[[], Settings], key: str, revoke: bool, as_json: bool) -> None:
    """Make a link by which a key's holder makes its next secret, and print it, this once.

    The link works once, for 7 days; a link from before is void. The secret that the key has goes
    on working until the holder has opened the link and pressed the button there. The link needs
    [server] public_url.
    """
    method = "DELETE" if revoke else "POST"
    found = run(load, lambda api: api.call(method, "keys", key, "invitation"))
    if as_json:
        print_json(found)
    elif revoke:
        echo(f"The invitation of the key {found['name']!r} is called back: its link is void.")
    else:
        print_link(found)
        echo("A secret that the key has already works until then.")


def print_link(key: Any) -> None:
    """Print the link of a new invitation; ``key`` has the members of the API."""
    echo(key["link"])
    echo(
        "\nThis is the only time the link is shown: only a hash of its code is kept. It\n"
        f"works once, until {key['invitation_expires_at']}. Whoever opens it and presses the\n"
        "button there makes the key's secret, and nobody else sees that."
    )
