"""Upstreams: whether one can be reached, takes the credential, and has the models that it should.

One request tells all that: the one for its list of models.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from opuslive.bootstrap import credential_of, make_upstream, upstream_tls
from opuslive.config.sections import UpstreamConfig
from opuslive.diagnostics.findings import (
    Finding,
    count,
    error,
    from_error,
    listed_names,
    ok,
    warning,
)
from opuslive.errors import OpusLiveError
from opuslive.gateway.upstreams.answers import reason_of
from opuslive.gateway.upstreams.listing import Listing, list_models
from opuslive.gateway.upstreams.wire import FailureKind, UpstreamError
from opuslive.pricing.prices import model_of
from opuslive.quantities import is_glob, matches_glob

#: Seconds that connecting may take here, whatever the configuration allows.
CONNECT_SECONDS = 5.0
#: Seconds that an answer may take.
ANSWER_SECONDS = 8.0
#: Seconds that the upstream's clock and this machine's may be apart.
CLOCK_TOLERANCE = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an upstream, as the end of a sentence about it, and the remedy."""

    text: str
    remedy: str
    fatal: bool = True


async def ask(upstream: UpstreamConfig, credential: str | None) -> Listing:
    """Ask an upstream for its list of models, on a connection of its own."""
    hurried = replace(upstream, connect_timeout=min(upstream.connect_timeout, CONNECT_SECONDS))
    # To read all authorities takes some 20 ms, which requests must not wait for.
    tls = await asyncio.to_thread(upstream_tls) if _is_secure(upstream) else None
    made = make_upstream(hurried, credential, tls)
    try:
        return await list_models(made, within=ANSWER_SECONDS)
    finally:
        made.pool.close()


async def look_at(
    upstream: UpstreamConfig, folder: Path, environ: Mapping[str, str]
) -> Listing | OpusLiveError:
    """The same with its configured credential; the error if that is missing."""
    try:
        return await ask(upstream, credential_of(upstream, folder, environ))
    except OpusLiveError as problem:
        return problem


def findings_of(
    upstream: UpstreamConfig, found: Listing | OpusLiveError, now_ms: int
) -> Iterable[Finding]:
    """What a listing at ``now_ms`` (ms since the epoch) says of an upstream."""
    name = f"upstream {upstream.name}"
    if isinstance(found, OpusLiveError):
        yield from_error(name, found)
        return
    problem = problem_of(found, has_credential=_has_credential(upstream))
    if problem is None:
        credential = "takes the credential" if _has_credential(upstream) else "needs no credential"
        way = "over TLS" if _is_secure(upstream) else "over plain HTTP"
        yield ok(name, f"answers {way}, {credential}, lists {count(len(found.models), 'model')}")
        yield _models(upstream, found)
    else:
        make = error if problem.fatal else warning
        yield make(name, problem.text, problem.remedy)
    clock = _clock(upstream, found, now_ms)
    if clock is not None:
        yield clock


def problem_of(listing: Listing, *, has_credential: bool) -> Problem | None:
    """What is wrong with an upstream that gave this listing."""
    if listing.error is not None:
        return _unreachable(listing.error)
    if listing.refused:
        if has_credential:
            return Problem(
                f"refuses the credential (status {listing.status})",
                "put a key that the provider accepts in its place",
            )
        return Problem(
            f"wants a credential (status {listing.status}), and none is set",
            "set api_key_file or api_key_env",
        )
    if listing.whole:
        return None
    if listing.accepted:
        return Problem(
            "gives a list of models that can't be read",
            "check its base_url and dialect",
            fatal=False,
        )
    if listing.status == 404:
        return Problem(
            "has no list of models at its address (status 404), so the credential is not proven",
            "check its base_url: only /v1 at its end may be left out",
            fatal=False,
        )
    return Problem(
        f"gives no list of models (status {listing.status}), so the credential is not proven",
        "try again later, and check its base_url",
        fatal=False,
    )


def is_listed(model: str, listing: Listing) -> bool:
    """Whether the list has the model, or a snapshot of it: providers list only these of some."""
    return model in listing.models or any(model_of(each) == model for each in listing.models)


def _unreachable(failure: UpstreamError) -> Problem:
    if failure.kind is not FailureKind.UNREACHABLE:
        return Problem(str(failure), "check its base_url")
    cause = failure.__cause__
    if isinstance(cause, socket.gaierror):
        remedy = "check its base_url, and this machine's DNS"
    elif isinstance(cause, ssl.SSLCertVerificationError):
        remedy = (
            "check its base_url and this machine's clock; for a private authority set SSL_CERT_FILE"
        )
    elif isinstance(cause, ssl.SSLError):
        remedy = "check the scheme and the port of its base_url"
    else:
        remedy = "check its base_url, and whether a firewall lets this machine out"
    return Problem(f"can't be reached: {reason_of(failure)}", remedy)


def _models(upstream: UpstreamConfig, listing: Listing) -> Finding:
    name = f"models of {upstream.name}"
    missing = [
        each
        for each in upstream.models
        if not (
            any(matches_glob(each, model) for model in listing.models)
            if is_glob(each)
            else is_listed(each, listing)
        )
    ]
    if missing:
        return warning(
            name,
            f"the provider's list has no {listed_names(missing)}",
            "correct models of this upstream, if that is no model which the provider just "
            "does not list",
        )
    served = sum(
        any(matches_glob(glob, model) for glob in upstream.models) for model in listing.models
    )
    return ok(name, f"the provider has all of them; {count(served, 'model')} of its list served")


def _clock(upstream: UpstreamConfig, listing: Listing, now_ms: int) -> Finding | None:
    """None if the upstream does not tell the time."""
    name = f"clock and {upstream.name}'s"
    if listing.date is None:
        return None
    with contextlib.suppress(ValueError):
        told = parsedate_to_datetime(listing.date.decode("latin-1"))
        if told.tzinfo is None:
            told = told.replace(tzinfo=UTC)
        seconds = round(now_ms / 1000 - told.timestamp())
        if abs(seconds) <= CLOCK_TOLERANCE:
            return ok(name, "this machine's clock agrees with the provider's")
        return warning(
            name,
            f"this machine's clock is {abs(seconds):,} s "
            f"{'ahead of' if seconds > 0 else 'behind'} the provider's",
            "let the machine set its clock by NTP: limits and expiry dates go by it",
        )
    return None


def _is_secure(upstream: UpstreamConfig) -> bool:
    return urlsplit(upstream.base_url).scheme == "https"


def _has_credential(upstream: UpstreamConfig) -> bool:
    return bool(upstream.api_key_env or upstream.api_key_file or upstream.api_key)
