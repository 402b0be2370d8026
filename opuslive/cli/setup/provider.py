"""The provider and its credential, which is tried."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from opuslive.bootstrap import credential_of
from opuslive.cli.output import echo
from opuslive.cli.questions import Questions
from opuslive.cli.setup.choices import Choices
from opuslive.config.create import PROVIDERS
from opuslive.config.files import exposure_warning, others_may_read
from opuslive.config.reader import Place, is_loopback, web_url
from opuslive.config.sections import UpstreamConfig, read_base_url
from opuslive.diagnostics.discovery import find_dialect
from opuslive.diagnostics.upstreams import ask, problem_of
from opuslive.errors import UsageError
from opuslive.gateway.upstreams.listing import Listing

#: The file beside the configuration with a credential that was typed.
CREDENTIAL_FILE = "provider.key"
#: Seconds that trying the credential may take.
VERIFY_SECONDS = 20.0


def provider_of(choices: Choices, questions: Questions) -> UpstreamConfig:
    def read(answer: str) -> UpstreamConfig:
        if answer in PROVIDERS:
            return replace(PROVIDERS[answer], api_key_env=None)
        if "://" not in answer:
            known = ", ".join(PROVIDERS)
            raise UsageError(
                f"--provider: write one of {known}, or an address such as "
                '"https://api.example.com".'
            )
        url = web_url(answer, Place("--provider"))
        host = url.hostname or ""
        if url.scheme == "http" and not is_loopback(host):
            raise UsageError(
                "--provider: plain http would send prompts and the credential in clear; write "
                "https://."
            )
        return UpstreamConfig(
            name=host, base_url=read_base_url(answer, Place("--provider")), dialect="openai"
        )

    return questions.ask(
        f"Provider ({', '.join(PROVIDERS)}, or the URL of another one)",
        read,
        given=choices.provider,
        default=next(iter(PROVIDERS)),
        flag="--provider",
    )


def tried_credential(
    choices: Choices,
    provider: UpstreamConfig,
    path: Path,
    questions: Questions,
    environ: Mapping[str, str],
) -> tuple[UpstreamConfig, str | None, Listing | None]:
    """The upstream with the place of its credential, the credential, and the list of its models."""
    if choices.credential_file is not None:
        upstream = replace(provider, api_key_file=_used_in_place(choices.credential_file, path))
        credential = credential_of(upstream, path.parent, environ)
    elif choices.credential_env is not None:
        upstream = replace(provider, api_key_env=choices.credential_env)
        unset = not environ.get(choices.credential_env, "").strip()
        # The server may have what this shell does not.
        skip = unset and choices.no_verify
        credential = None if skip else credential_of(upstream, path.parent, environ)
    elif not questions.asking:
        if not _is_local(provider):
            raise UsageError(_no_credential(provider, environ))
        upstream, credential = provider, None
    else:
        return _typed_credential(choices, provider, path, questions, environ)
    if choices.no_verify:
        return upstream, credential, None
    found, listing = _listed(upstream, credential)
    _refuse_problem(listing, upstream)
    return found, credential, listing


def _typed_credential(
    choices: Choices,
    provider: UpstreamConfig,
    path: Path,
    questions: Questions,
    environ: Mapping[str, str],
) -> tuple[UpstreamConfig, str | None, Listing | None]:
    """The same, asked for until the provider takes it."""
    file = path.parent / CREDENTIAL_FILE
    if os.path.lexists(file):
        raise UsageError(
            f"{file} exists, and nothing is overwritten; use it with --credential-file, or move "
            "it away."
        )
    local = _is_local(provider)
    question = f"The provider's key (not shown{'; Enter: none' if local else ''})"
    while True:
        typed = questions.secret(question, optional=local).strip()
        upstream = replace(provider, api_key_file=CREDENTIAL_FILE) if typed else provider
        if not typed.isascii() or not typed.isprintable() or " " in typed:
            echo("A key has ASCII characters without spaces.", err=True)
            continue
        if choices.no_verify:
            return upstream, typed or None, None
        found, listing = _listed(upstream, typed or None)
        if not listing.refused:
            _refuse_problem(listing, upstream)
            echo(f"It works: {len(listing.models):,} models.", err=True)
            return found, typed or None, listing
        echo(f"The provider refuses it (status {listing.status}).", err=True)


def _listed(upstream: UpstreamConfig, credential: str | None) -> tuple[UpstreamConfig, Listing]:
    """The upstream with the dialect that it speaks, and its list of models."""
    known = any(upstream.base_url == each.base_url for each in PROVIDERS.values())

    async def listed() -> tuple[UpstreamConfig, Listing]:
        async with asyncio.timeout(VERIFY_SECONDS):
            if known:
                return upstream, await ask(upstream, credential)
            return await find_dialect(upstream, credential)

    try:
        return asyncio.run(listed())
    except TimeoutError:
        raise UsageError(
            f"The provider did not list its models within {VERIFY_SECONDS:.0f} s, and nothing was "
            "written; try again, or skip this with --no-verify."
        ) from None


def _refuse_problem(listing: Listing, upstream: UpstreamConfig) -> None:
    """Raise UsageError unless the provider gave its list."""
    has_credential = bool(upstream.api_key_file or upstream.api_key_env)
    problem = problem_of(listing, has_credential=has_credential)
    if problem is None:
        return
    correct = "--provider"
    if listing.refused:
        correct = "the key" if has_credential else "--credential-file or --credential-env"
    raise UsageError(
        f"The provider {problem.text}, and nothing was written; correct {correct}, or skip this "
        "with --no-verify."
    )


def _used_in_place(name: str, path: Path) -> str:
    """How the configuration names a file with a credential. Raises UsageError if others may
    read it."""
    file = Path(name).absolute()
    try:
        status = file.stat()
    except OSError as error:
        raise UsageError(
            f"--credential-file: {file} can't be read: {error.strerror}; name a file with nothing "
            "but the provider's key in it."
        ) from None
    if others_may_read(status):
        raise UsageError(exposure_warning(file, status))
    return file.name if file.parent == path.parent else str(file)


def _is_local(provider: UpstreamConfig) -> bool:
    return is_loopback(urlsplit(provider.base_url).hostname or "")


def _no_credential(provider: UpstreamConfig, environ: Mapping[str, str]) -> str:
    variable = next(
        (each.api_key_env for each in PROVIDERS.values() if each.base_url == provider.base_url),
        None,
    )
    hint = ""
    if variable is not None and environ.get(variable, "").strip():
        hint = f" ({variable} is set: --credential-env {variable} uses it)"
    return (
        "The provider's key has no default; say where it is with --credential-file FILE or "
        f"--credential-env NAME{hint}."
    )
