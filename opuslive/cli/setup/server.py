"""Where the gateway listens, and how clients reach it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from dataclasses import replace

from opuslive.cli.questions import Questions
from opuslive.cli.setup.choices import Choices
from opuslive.config.create import Listening
from opuslive.config.reader import Place, host_name
from opuslive.config.sections import Config, check_listen
from opuslive.config.tls import check_certified, mail_address
from opuslive.errors import UsageError
from opuslive.web.http.listening import check_listening, client_urls

#: Ports below it are for root, or for whoever was given them.
_FIRST_FREE_PORT = 1024
_HTTPS = 443


def listening_of(choices: Choices, questions: Questions) -> Listening:
    """Where it listens, and how clients reach it."""
    acme, proxy = choices.acme, choices.behind_proxy
    if acme is not None:
        acme = mail_address(acme, Place("--acme"))

    def named(answer: str) -> str:
        name = host_name(answer, Place("--host-name")) if answer else ""
        if name and choices.acme:
            check_certified(name, Place("--host-name"))
        return name

    name = questions.ask(
        "Host name for clients of other machines (Enter: this machine alone)",
        named,
        given=choices.host_name,
        default=None if choices.acme or choices.behind_proxy else "",
        flag="--host-name",
    )
    if (acme or proxy) and not name:
        raise UsageError("--acme and --behind-proxy need a name; say it with --host-name.")
    if name and not (acme or proxy):

        def certifiable(answer: str) -> str:
            way = _way(answer)
            if way == "acme":
                check_certified(name, Place("the host name"))
            return way

        way = questions.ask(
            "TLS for it: acme (this gateway gets certificates) or proxy (in front of it)",
            certifiable,
            given=None,
            default="acme" if questions.asking else None,
            flag="--acme EMAIL or --behind-proxy",
        )
        proxy = way == "proxy"
        if not proxy:
            acme = questions.ask(
                "Your mail address, for the certificate authority",
                lambda answer: mail_address(answer, Place("--acme")),
                given=None,
                default=None,
                flag="--acme",
            )
    everywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    made = Listening(
        everywhere if acme else "127.0.0.1",
        _HTTPS if acme else 8080,
        behind_proxy=proxy,
        acme=acme,
    )
    return _free(choices, questions, made, name)


def _way(answer: str) -> str:
    if answer not in ("acme", "proxy"):
        raise UsageError("Write acme or proxy.")
    return answer


def _free(choices: Choices, questions: Questions, made: Listening, name: str) -> Listening:
    """The same with an address and a port that are free, and with its public URL."""

    def at_host(answer: str) -> Listening:
        chosen = replace(made, host=host_name(answer, Place("--host")))
        if not (chosen.acme or chosen.behind_proxy):
            check_listen(replace(Config().server, host=(chosen.host,)))
        return chosen

    made = questions.ask(
        "Address to listen on", at_host, given=choices.host, default=made.host, flag="--host"
    )

    def at_port(answer: str) -> int:
        if not answer.isdecimal() or not 1 <= int(answer[:6]) <= 65535:
            raise UsageError("--port: write a number from 1 to 65535.")
        port = int(answer)
        if port >= _FIRST_FREE_PORT or os.geteuid() == 0:
            asyncio.run(check_listening((made.host,), port))
        return port

    port = questions.ask(
        "Port to listen on", at_port, given=choices.port, default=str(made.port), flag="--port"
    )
    if not name:
        return replace(made, port=port)
    own_port = "" if made.behind_proxy or port == _HTTPS else f":{port}"
    return replace(made, port=port, public_url=f"https://{_in_url(name)}{own_port}")


def _in_url(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def address_of(made: Listening) -> str:
    """Where a client on this machine reaches the gateway."""
    if made.acme is not None and made.public_url is not None:
        return made.public_url
    return client_urls((made.host,), made.port, "http")[0]
