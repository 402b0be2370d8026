"""The page of an invitation: whoever has its code makes a key's secret there.

Opening the page uses nothing up, so no preview of a link can. A browser keeps what stands behind
the ``#`` of the link to itself; our script puts it into the form and takes it out of the address,
and without a script it is pasted. The button posts it. Programs may post it as JSON.

Guesses are slowed down as those at passwords are, in a line of their own: who guesses at codes
holds up nobody who signs in.
"""

from __future__ import annotations

from functools import partial

from aiohttp import web

from opuslive.administration.invitations import PATH, Invitations
from opuslive.administration.keys import text_member
from opuslive.config.in_force import ConfigInForce
from opuslive.errors import Code, UsageError
from opuslive.keys import CODE_LENGTH, Key, code_in
from opuslive.web.answers import json_answer
from opuslive.web.errors import HttpProblem, answered, problem_document
from opuslive.web.http.guesses import RequestGuesses
from opuslive.web.http.members import read_members
from opuslive.web.http.sites import is_foreign
from opuslive.web.model_names import ModelNames
from opuslive.web.pages.forms import read_form
from opuslive.web.pages.templating import Templates
from opuslive.web.shapes import key_with_secret

#: Bytes of a request's body: the longest address, and more.
MAX_BODY = 8192


class InvitationPages:
    """``/invite``."""

    def __init__(
        self,
        in_force: ConfigInForce,
        invitations: Invitations,
        templates: Templates,
        models: ModelNames,
        guesses: RequestGuesses,
    ) -> None:
        self._in_force = in_force
        self._invitations = invitations
        self._templates = templates
        self._models = models
        self._guesses = guesses
        self._redeem_form = answered(self.redeem_form, self.problem)
        self._redeem_json = answered(self.redeem_json, problem_document)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PATH, self.form), web.post(PATH, self.redeem)]

    async def form(self, request: web.Request) -> web.StreamResponse:
        return self._form(request)

    async def redeem(self, request: web.Request) -> web.StreamResponse:
        is_json = request.content_type == "application/json"
        return await (self._redeem_json if is_json else self._redeem_form)(request)

    async def redeem_json(self, request: web.Request) -> web.StreamResponse:
        self._check_site(request)
        members = await read_members(request, ("code",), required=True, max_bytes=MAX_BODY)
        key, credential = await self._redeem(request, text_member(members, "code") or "")
        return json_answer(request, key_with_secret(key, credential))

    async def redeem_form(self, request: web.Request) -> web.StreamResponse:
        self._check_site(request)
        form = await read_form(
            request,
            ("code",),
            max_bytes=MAX_BODY,
            too_long="That is far too long for the link of an invitation; paste nothing else.",
        )
        key, credential = await self._redeem(request, form.get("code", ""))
        return self._templates.render(
            request,
            "invited.html",
            scripts=("copy.js",),
            key=key,
            credential=credential,
            base=self._templates.base(request),
            models=self._models.first_of(key.models),
        )

    async def _redeem(self, request: web.Request, text: str) -> tuple[Key, str]:
        """The key, and the secret that is made of a code or the link with it. Raises HttpProblem
        and OpusLiveError."""
        code = code_in(text)
        if code is None:
            raise UsageError(
                "This is not the link of an invitation. Paste all of it: it ends in # and "
                f"{CODE_LENGTH} letters and digits."
            )
        verdict = await self._guesses.judge(
            request, code.encode(), partial(self._invitations.knows, code)
        )
        if verdict.wait_ms:
            seconds = max(1, -(-verdict.wait_ms // 1000))
            raise HttpProblem(
                429,
                f"Too many wrong codes were tried; try again in {seconds} seconds.",
                {"retry-after": str(seconds)},
                Code.RATE_LIMITED,
            )
        if not verdict.right:
            raise self._invitations.void()
        return await self._invitations.redeem(code)

    def _check_site(self, request: web.Request) -> None:
        """Raise HttpProblem for what a page of another site sends: it would have somebody use a key
        that is not theirs."""
        if is_foreign(request, self._in_force.config.server.public_url):
            raise HttpProblem(
                403,
                "A page of another site may use no invitation: open its link, or paste it here.",
                code=Code.FORBIDDEN,
            )

    def problem(self, request: web.Request, problem: HttpProblem) -> web.Response:
        """The form once more, with what is wrong."""
        response = self._form(request, problem.sentence, problem.status)
        response.headers.update(problem.headers)
        return response

    def _form(
        self, request: web.Request, problem: str | None = None, status: int = 200
    ) -> web.Response:
        return self._templates.render(
            request, "invite.html", status=status, scripts=("invite.js",), problem=problem
        )
