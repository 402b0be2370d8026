"""``opuslive systemd``: units for systemd, for this installation and its configuration."""

from __future__ import annotations

import itertools
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from opuslive.cli.invocation import own_words
from opuslive.cli.output import echo
from opuslive.config.files import Settings, shown_path
from opuslive.config.sections import ServerConfig
from opuslive.errors import UsageError
from opuslive.storage import database_path

#: The user that the service runs as, and that owns its data.
USER = "opuslive"
#: Where systemd has the data of services; a folder in it belongs to its service.
STATE_ROOT = Path("/var/lib")
#: What the service's user can't look into, and the unit hides.
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
#: Seconds beyond the time to drain in which the process ends by itself.
STOP_MARGIN = 30
#: Ports below this one need a capability.
FIRST_FREE_PORT = 1024

#: systemd.exec(5) says what each of these takes away.
_CONFINEMENT = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM"""


@click.command()
@click.option("--socket", "as_socket", is_flag=True, help="Print the socket unit instead.")
@click.pass_obj
def systemd(load: Callable[[], Settings], as_socket: bool) -> None:
    """Print a hardened systemd unit for this installation.

    \b
      opuslive systemd | sudo tee /etc/systemd/system/opuslive.service
      opuslive systemd --socket | sudo tee /etc/systemd/system/opuslive.socket

    The unit runs as a user of its own; the lines at its top make that user. With the socket unit,
    systemd listens: a restart then refuses no client, they wait until the new process serves. Print
    the service again after changes of host, port, drain or the database's place.
    """
    settings = load()
    echo(socket_unit(settings) if as_socket else service_unit(settings, own_words()))


def service_unit(settings: Settings, words: Sequence[str]) -> str:
    """The service; ``words`` run this program. Raises UsageError for a configuration that a
    service can't use."""
    config = _configuration(settings)
    database = _database(settings)
    command = " ".join(map(_quoted, (*_program(words), "--config", str(config))))
    server = settings.config.server
    secrets = [config, *_credential_files(settings)]
    return "\n".join(
        (
            *_preparation(secrets, database),
            "",
            "[Unit]",
            "Description=OpusLive, an API gateway to AI language models",
            "Wants=network-online.target",
            "After=network-online.target",
            "",
            "[Service]",
            "Type=notify",
            f"User={USER}",
            f"Group={USER}",
            f"ExecStart={command} serve",
            f"ExecReload={command} reload",
            "Restart=on-failure",
            "RestartSec=1",
            "WatchdogSec=30",
            "# Running answers have [server] drain_notice and drain to end.",
            f"TimeoutStopSec={round(server.drain_notice + server.drain) + STOP_MARGIN}",
            "LimitNOFILE=65536",
            "UMask=0077",
            *_data(database),
            *_capabilities(server),
            _CONFINEMENT,
            "",
            "# A credential may come from systemd, instead of a file that the user can read:",
            "#   LoadCredential=provider:/etc/opuslive/provider.key",
            "# and in the configuration:",
            '#   api_key_file = "/run/credentials/opuslive.service/provider"',
            "# systemd reads it when the service starts: after a change, restart the service.",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
        )
    )


def socket_unit(settings: Settings) -> str:
    """The socket on which the service is reached. Raises UsageError."""
    server = settings.config.server
    if server.port == 0:
        raise UsageError("A socket unit needs a port; set [server] port to one.")
    return "\n".join(
        (
            "[Unit]",
            "Description=Where OpusLive listens",
            "",
            "[Socket]",
            *(f"ListenStream={address}" for address in _addresses(server)),
            "BindIPv6Only=ipv6-only",
            "Backlog=4096",
            "",
            "[Install]",
            "WantedBy=sockets.target",
        )
    )


def _addresses(server: ServerConfig) -> Iterator[str]:
    for port, host in itertools.product(_ports(server), server.host):
        names = ("127.0.0.1", "::1") if host.lower() == "localhost" else (host,)
        if host == "::":
            names = ("0.0.0.0", "::")
        for name in names:
            yield f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _ports(server: ServerConfig) -> Sequence[int]:
    """That of clients, and that of plain HTTP beside TLS where it gets its certificate by itself:
    by their numbers the server tells sockets apart that it is given."""
    if server.tls is None or server.tls.acme is None:
        return [server.port]
    return [server.port, server.tls.acme_http_port]


def _configuration(settings: Settings) -> Path:
    if settings.file is None:
        raise UsageError(
            "A service needs a configuration; 'opuslive init' makes one, or name one with --config."
        )
    return _visible(Path(shown_path(settings.file)), "The configuration", "/etc/opuslive")


def _database(settings: Settings) -> Path:
    if settings.config.storage.url is None:
        raise UsageError(
            "Whoever runs a command has to find the service's database: set [storage] url, such as "
            f'"sqlite://{STATE_ROOT}/{USER}/opuslive.db".'
        )
    return _visible(database_path(settings.config.storage.url), "The database", "/var/lib/opuslive")


def _program(words: Sequence[str]) -> Sequence[str]:
    first = shutil.which(words[0])
    if first is None:
        raise UsageError(f"{words[0]} is not found in PATH; call it by its path.")
    return (str(_visible(Path(first).absolute(), "The program", "/usr/local/bin")), *words[1:])


def _visible(path: Path, what: str, instead: str) -> Path:
    """Raises UsageError for a path that the service's user could not see."""
    home = next((home for home in HOMES if path.is_relative_to(home)), None)
    if home is not None:
        raise UsageError(
            f"{what} {path} is in {home}, which is hidden from the service; move it to {instead}."
        )
    return path


def _credential_files(settings: Settings) -> Iterator[Path]:
    for upstream in settings.config.upstreams:
        if upstream.api_key_file is not None:
            yield (settings.folder / upstream.api_key_file).absolute()


def _preparation(secrets: Sequence[Path], database: Path) -> Iterator[str]:
    """Comments that say how to make the user, and to give it what it needs."""
    yield "# To install it, as root:"
    yield f"#   useradd --system --no-create-home --shell /usr/sbin/nologin {USER}"
    files = " ".join(shlex.quote(str(path)) for path in secrets)
    yield f"#   chown root:{USER} {files}"
    yield f"#   chmod 0640 {files}"
    if database.parent.parent != STATE_ROOT:
        yield f"#   install -d -o {USER} -g {USER} -m 0700 {shlex.quote(str(database.parent))}"
    yield "#   systemctl daemon-reload"
    yield f"#   systemctl enable --now {USER}"


def _data(database: Path) -> Iterator[str]:
    """What lets the service write its data, and nothing else."""
    folder = database.parent
    if folder.parent == STATE_ROOT:
        yield f"StateDirectory={folder.name}"
        yield "StateDirectoryMode=0700"
    else:
        yield f"ReadWritePaths={_quoted(str(folder))}"


def _capabilities(server: ServerConfig) -> Iterator[str]:
    if any(0 < port < FIRST_FREE_PORT for port in _ports(server)):
        yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"
        yield "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
    else:
        yield "AmbientCapabilities="
        yield "CapabilityBoundingSet="


def _quoted(word: str) -> str:
    """A word of a command as systemd reads it: % begins a specifier, $ a variable."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or not word or set(word) & set(" \t'") else word
