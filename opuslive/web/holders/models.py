"""``GET /v1/models``: what this key may ask for, in the shape that the client expects."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from opuslive.dialects import Model
from opuslive.dialects.registry import model_documents
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.upstreams.catalog import Catalog
from opuslive.gateway.upstreams.router import Router, model_not_found
from opuslive.web.answers import json_answer
from opuslive.web.http.checks import credentials_of


class ModelHandlers:
    """The list, and each model of it. The dialects know the shapes."""

    def __init__(self, authenticator: Authenticator, catalog: Catalog, router: Router) -> None:
        self._authenticator = authenticator
        self._catalog = catalog
        self._router = router

    async def list(self, request: web.Request) -> web.StreamResponse:
        models = await self._models(request)
        documents = model_documents(request.headers)
        return json_answer(request, documents.models_document(models, request.query))

    async def one(self, request: web.Request) -> web.StreamResponse:
        for model in await self._models(request):
            if model.id == request.match_info["id"]:
                documents = model_documents(request.headers)
                return json_answer(request, documents.model_document(model))
        raise model_not_found()

    async def _models(self, request: web.Request) -> Sequence[Model]:
        holder = await self._authenticator.authenticate(credentials_of(request))
        return self._catalog.models_for(self._router, holder.key.models)
