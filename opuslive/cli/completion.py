"""``opuslive completion``: what a shell needs to complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from opuslive.cli.invocation import NAME
from opuslive.cli.output import echo


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script, which completes names of keys and groups, too.

    \b
      bash   echo 'eval "$(opuslive completion bash)"' >> ~/.bashrc
      zsh    echo 'eval "$(opuslive completion zsh)"' >> ~/.zshrc    (after compinit)
      fish   opuslive completion fish > ~/.config/fish/completions/opuslive.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    echo(kind(ctx.find_root().command, {}, NAME, f"_{NAME.upper()}_COMPLETE").source())
