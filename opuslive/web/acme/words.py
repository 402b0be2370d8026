"""What failed at a certificate authority, in words for the administrator."""

from __future__ import annotations

from collections.abc import Iterable

from acme import errors, messages

from opuslive.web.acme.papers import UnusableChain
from opuslive.web.acme.renewal import AuthorityFailure
from opuslive.web.acme.transport import TransportFailure

#: Characters of an authority's own words that are told.
_MAX_WORDS = 300

#: The authority's code → what it means here, and the remedy.
_CODES = {
    "rateLimited": "has issued or refused too much lately, and wants a pause",
    "externalAccountRequired": "needs an account made elsewhere (external account binding), which "
    "OpusLive can't use; set acme_directory to another one",
    "rejectedIdentifier": "issues no certificate for this name",
    "caa": "may not issue for this name: a CAA record of its domain forbids it",
    "dns": "could not resolve the name; make it lead to this machine",
    "unknownHost": "could not resolve the name; make it lead to this machine",
    "connection": "could not connect to port 80 of the name; let it through to [server.tls] "
    "acme_http_port",
    "tls": "could not connect to port 80 of the name; let it through to [server.tls] "
    "acme_http_port",
    "incorrectResponse": "reached another server at port 80 of the name; let it through to "
    "[server.tls] acme_http_port",
    "invalidContact": "does not accept the mail address in [server.tls] acme",
    "unsupportedContact": "does not accept the mail address in [server.tls] acme",
    "serverInternal": "has a problem of its own",
}


def failure_of(error: Exception, wish: float | None) -> AuthorityFailure:
    """The failure in words. ``wish``: how long the authority wants a pause, in seconds."""
    detail = _detail(error) if isinstance(error, messages.Error) else ""
    return AuthorityFailure(f"the certificate authority {_told(error)}", detail, wish)


def _told(error: Exception) -> str:
    if isinstance(error, TransportFailure):
        return str(error)
    if isinstance(error, UnusableChain):
        return f"issued what can't be used: {error}"
    if isinstance(error, messages.Error):
        return _CODES.get(str(error.typ or "").rpartition(":")[2], "refused")
    if isinstance(error, errors.TimeoutError):
        return "did not come to a decision in time"
    if isinstance(error, errors.Error):
        return "refused, or answered against the protocol"
    return f"sent an answer that can't be understood ({type(error).__name__})"


def challenge_failed(problems: Iterable[messages.Error | None]) -> errors.Error:
    """Why a name could not be proven to be ours."""
    for problem in problems:
        if problem is not None and problem.code == "unauthorized":
            # So some call an answer that is not ours. Elsewhere it is about the account.
            return messages.Error.with_code("incorrectResponse", detail=problem.detail)
        if problem is not None:
            return problem
    return errors.ClientError("not proven")


def _detail(error: messages.Error) -> str:
    """The authority's own words: from the network, so one line of limited length."""
    words = "".join(c if c.isprintable() else " " for c in str(error.detail or "")[:_MAX_WORDS])
    return f' (it says: "{words.strip()}")' if words.strip() else ""
