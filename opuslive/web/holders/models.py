"""``GET /v1/models``: what this key may ask for, in the shape that the client expects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from aiohttp import web

from opuslive.bootstrap import Gateway
from opuslive.gateway.upstreams.catalog import Model
from opuslive.gateway.upstreams.router import model_not_found
from opuslive.web.answers import json_answer
from opuslive.web.http.checks import credentials_of

#: How many models a page of the Anthropic shape may have, and has if nothing is said.
MAX_PAGE = 1000


class ModelHandlers:
    """Both shapes: Anthropic's when ``anthropic-version`` is sent, else OpenAI's."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def list(self, request: web.Request) -> web.StreamResponse:
        models = await self._models(request)
        if not _anthropic(request):
            return json_answer(
                request, {"object": "list", "data": [_openai_model(model) for model in models]}
            )
        page, has_more = _page(request, models)
        return json_answer(
            request,
            {
                "data": [_anthropic_model(model) for model in page],
                "has_more": has_more,
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
            },
        )

    async def one(self, request: web.Request) -> web.StreamResponse:
        for model in await self._models(request):
            if model.id == request.match_info["id"]:
                shape = _anthropic_model if _anthropic(request) else _openai_model
                return json_answer(request, shape(model))
        raise model_not_found()

    async def _models(self, request: web.Request) -> Sequence[Model]:
        holder = await self._gateway.authenticator.authenticate(credentials_of(request))
        return self._gateway.catalog.models_for(self._gateway.router, holder.key.models)


def _anthropic(request: web.Request) -> bool:
    return "anthropic-version" in request.headers


def _page(request: web.Request, models: Sequence[Model]) -> tuple[Sequence[Model], bool]:
    """The page asked for with Anthropic's ``limit``, ``after_id`` and ``before_id``."""
    ids = [model.id for model in models]
    after, before = request.query.get("after_id"), request.query.get("before_id")
    text = request.query.get("limit", "")
    limit = max(1, min(int(text), MAX_PAGE)) if text.isdecimal() and len(text) < 10 else MAX_PAGE
    if before in ids:
        end = ids.index(before)
        return models[max(0, end - limit) : end], end > limit
    start = ids.index(after) + 1 if after in ids else 0
    return models[start : start + limit], start + limit < len(models)


def _anthropic_model(model: Model) -> dict[str, object]:
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.display_name,
        "created_at": model.created_at,
    }


def _openai_model(model: Model) -> dict[str, object]:
    try:
        created = int(datetime.fromisoformat(model.created_at).timestamp())
    except ValueError:
        created = 0
    return {"id": model.id, "object": "model", "created": created, "owned_by": "opuslive"}
