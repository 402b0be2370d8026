"""Which model the set-up lines name: one that is served here, and that the key may use."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from opuslive.config.sections import Config, UpstreamConfig
from opuslive.dialects import Model
from opuslive.web.model_names import ModelNames
from tests.support.app import OpenApp

GLOBS = ("claude-*",)
LISTED = ("claude-fable-9", "claude-opus-4-8", "claude-haiku-9", "other")


def upstream(*models: str, dialect: str = "anthropic") -> UpstreamConfig:
    return UpstreamConfig(dialect, "http://127.0.0.1:9", dialect, models=models)


async def names(
    open_app: OpenApp,
    *upstreams: UpstreamConfig,
    listed: dict[str, tuple[str, ...]] | None = None,
    globs: tuple[str, ...] = (),
    **config: Any,
) -> dict[str, str | None]:
    """The first model of each dialect, where the upstreams list these."""
    gateway, _ = await open_app(Config(upstreams=upstreams, **config))
    for each in gateway.router.upstreams:
        models = (listed or {}).get(each.name, ())
        gateway.catalog.take(each, tuple(Model(model, model) for model in models))
    model_names = ModelNames(gateway.router, gateway.catalog, lambda: upstreams)
    return dict(model_names.first_of(globs))


@pytest.mark.parametrize(
    ("models", "listed", "globs", "first"),
    [
        # Of what the provider lists.
        (("*",), LISTED, (), "claude-opus-4-8"),
        (("*",), LISTED[:1] + LISTED[2:], (), "claude-fable-9"),
        (("claude-haiku-*",), LISTED, (), "claude-haiku-9"),
        (("*",), LISTED, ("claude-haiku-*", "other"), "claude-haiku-9"),
        (("*",), LISTED, ("nothing-*",), None),
        # A list without it is no place for a guess.
        (("*",), LISTED[2:], ("claude-opus-*",), None),
        # Of what the configuration names, where there is no list.
        (("our-own",), (), (), "our-own"),
        (("our-own", "claude-opus-4-8"), (), (), "claude-opus-4-8"),
        (("our-own",), (), ("claude-*",), None),
        # What the provider is known to have.
        (("*",), (), (), "claude-opus-4-8"),
        (("claude-*",), (), ("claude-opus-*",), "claude-opus-4-8"),
        (("claude-haiku-*",), (), (), None),
        (("claude-*",), (), ("claude-haiku-*",), None),
    ],
)
async def test_of_anthropic(
    open_app: OpenApp,
    models: tuple[str, ...],
    listed: tuple[str, ...],
    globs: tuple[str, ...],
    first: str | None,
) -> None:
    found = await names(open_app, upstream(*models), listed={"anthropic": listed}, globs=globs)
    assert found == {"anthropic": first}


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        (("whisper-1", "gpt-4.1", "gpt-5.3", "gpt-5", "gpt-5.3-mini", "gpt-4o"), "gpt-5.3"),
        (("gpt-9", "gpt-10"), "gpt-10"),
        (("qwen-3", "llama"), "qwen-3"),
        # Most servers of the format are not OpenAI's.
        ((), None),
    ],
)
async def test_of_openai(open_app: OpenApp, listed: tuple[str, ...], first: str | None) -> None:
    found = await names(open_app, upstream("*", dialect="openai"), listed={"openai": listed})
    assert found == {"openai": first}


async def test_each_format_has_its_own(open_app: OpenApp) -> None:
    assert await names(
        open_app,
        upstream("claude-*"),
        upstream("gpt-*", "qwen", dialect="openai"),
        listed={"anthropic": LISTED, "openai": ("gpt-5", "claude-opus-4-8")},
    ) == {"anthropic": "claude-opus-4-8", "openai": "gpt-5"}


async def test_an_alias_is_not_named_but_what_it_stands_for(open_app: OpenApp) -> None:
    """Claude Code itself has a model for "opus"."""
    aliases = MappingProxyType({"opus": "claude-own", "gone": "gpt-none"})
    assert await names(open_app, upstream("claude-*"), aliases=aliases) == {
        "anthropic": "claude-own"
    }


async def test_without_upstreams_there_is_none(open_app: OpenApp) -> None:
    assert await names(open_app) == {}
