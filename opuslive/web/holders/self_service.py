"""What holders do with their own keys: in the API with the key in a header, and on Check Usage with
the key in a form. ``administration.self_service`` says what they may."""

from __future__ import annotations

from aiohttp import web

from opuslive.administration.keys import flag_member, text_member
from opuslive.administration.self_service import Replaced, SelfService
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.authenticator import Authenticator
from opuslive.quantities import parse_duration
from opuslive.web.answers import json_answer
from opuslive.web.errors import HttpProblem, answered
from opuslive.web.holders.key_forms import UNKNOWN_KEY, read_key_form
from opuslive.web.http.checks import credentials_of
from opuslive.web.http.members import read_members
from opuslive.web.model_names import ModelNames
from opuslive.web.pages.templating import Templates
from opuslive.web.parameters import check_parameters
from opuslive.web.shapes import key_members, key_with_secret

#: Bytes of a request's body.
MAX_BODY = 4096


class SelfServiceHandlers:
    """``/v1/key/rotate`` and ``/v1/key/cut``, and the same on pages."""

    def __init__(
        self,
        self_service: SelfService,
        authenticator: Authenticator,
        templates: Templates,
        models: ModelNames,
    ) -> None:
        self._self_service = self_service
        self._authenticator = authenticator
        self._templates = templates
        self._models = models

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/key/rotate", self.rotate),
            web.post("/v1/key/cut", self.cut),
            web.post("/usage/replace", answered(self.replace_page, self.problem)),
            web.post("/usage/cut", answered(self.cut_page, self.problem)),
        ]

    # The API.

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        # Whoever has no key is told so, and not what is wrong with the body.
        await self._authenticator.prove(credentials_of(request))
        check_parameters(request, ())
        members = await read_members(request, ("grace", "cut"), required=False, max_bytes=MAX_BODY)
        replaced = await self._self_service.replace_secret(
            credentials_of(request),
            parse_duration(text_member(members, "grace") or "0s"),
            cut=flag_member(members, "cut") or False,
        )
        members = key_with_secret(replaced.key, replaced.credential)
        return json_answer(request, members | {"cut": replaced.cut})

    async def cut(self, request: web.Request) -> web.StreamResponse:
        await self._authenticator.prove(credentials_of(request))
        check_parameters(request, ())
        key, cut = await self._self_service.cut(credentials_of(request))
        return json_answer(request, key_members(key) | {"cut": cut})

    # The pages.

    async def replace_page(self, request: web.Request) -> web.StreamResponse:
        credential, form = await read_key_form(request, ("grace", "cut"))
        await self._check_known(credential)
        replaced = await self._self_service.replace_secret(
            [credential], parse_duration(form.get("grace", "").strip() or "0s"), cut="cut" in form
        )
        return self._shown(request, replaced)

    async def cut_page(self, request: web.Request) -> web.StreamResponse:
        credential, _ = await read_key_form(request, ())
        await self._check_known(credential)
        key, cut = await self._self_service.cut([credential])
        return self._templates.render(request, "cut.html", key=key, cut=cut)

    async def _check_known(self, credential: str) -> None:
        """Raise OpusLiveError for a text that is no key, in words for a page."""
        try:
            await self._authenticator.prove([credential])
        except OpusLiveError as error:
            if error.code is Code.INVALID_KEY:
                raise OpusLiveError(Code.INVALID_KEY, UNKNOWN_KEY) from None
            raise

    def _shown(self, request: web.Request, replaced: Replaced) -> web.Response:
        """The one time that the new secret is shown."""
        return self._templates.render(
            request,
            "replaced.html",
            scripts=("copy.js",),
            key=replaced.key,
            credential=replaced.credential,
            cut=replaced.cut,
            base=self._templates.base(request),
            models=self._models.first_of(replaced.key.models),
        )

    def problem(self, request: web.Request, problem: HttpProblem) -> web.Response:
        """The form of Check Usage, with what is wrong."""
        response = self._templates.render(
            request, "usage.html", status=problem.status, problem=problem.sentence
        )
        response.headers.update(problem.headers)
        return response
