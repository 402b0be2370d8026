"""What is said to a certificate authority, from its directory to a certificate (RFC 8555, 7).

It blocks, so it runs in a thread. Every wait is bounded: each request and all of them by the
transport, and the number of looks at an order here. ``close`` ends it from another thread.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
from acme import challenges, client, errors, messages
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.json_util import field as member
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from opuslive.web.acme import papers
from opuslive.web.acme.schedule import Advice, advice_span, window_of
from opuslive.web.acme.transport import Transport
from opuslive.web.acme.words import challenge_failed, failure_of

#: Looks at whether the authority is done with a challenge or an order.
MAX_LOOKS = 60
#: Seconds between two looks: without a wish of the authority's, and whatever it wishes.
_LOOK_SECONDS = 1.0
_LONGEST_LOOK_SECONDS = 20.0
#: Challenges and authorizations that are looked at.
_MAX_ITEMS = 20
#: What a token may consist of (RFC 8555, 8.3).
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")
#: The resources that a directory has to have.
_NEEDED = ("newNonce", "newAccount", "newOrder")

T = TypeVar("T")


class _Network(client.ClientNetwork):
    """The library tries a second nonce (RFC 8555, 6.5). Authorities with several machines may
    refuse that, too, so this tries a third and a fourth."""

    def post(self, *arguments: Any, **options: Any) -> requests.Response:
        try:
            return super().post(*arguments, **options)
        except messages.Error as error:
            if error.code != "badNonce":
                raise
        return super().post(*arguments, **options)


class _Order(messages.NewOrder):
    """An order that says which certificate it replaces (RFC 9773, 5)."""

    replaces: str | None = member("replaces", omitempty=True)


@dataclass(slots=True)
class _Session:
    """One conversation."""

    client: client.ClientV2
    transport: Transport
    #: Name of a resource → its address.
    directory: Mapping[str, Any]


@dataclass(slots=True)
class _Begun:
    """An order that the authority was asked to carry out, and the key that it is for."""

    key: ec.EllipticCurvePrivateKey
    order: messages.OrderResource


class Authority:
    """A certificate authority, and our account there.

    ``answers`` is where the http-01 server finds what to answer: token → text. ``now`` is the wall
    clock, in seconds since the epoch; ``rest`` waits for some seconds, or until it is woken by
    ``close``.
    """

    def __init__(
        self,
        directory: str,
        contact: str,
        account_key: ec.EllipticCurvePrivateKey,
        trusted: ssl.SSLContext,
        answers: MutableMapping[str, str],
        now: Callable[[], float],
        rest: Callable[[float], object] | None = None,
    ) -> None:
        self._directory = directory
        self._contact = f"mailto:{contact}"
        self._key = JWKEC(key=account_key)
        self._trusted = trusted
        self._answers = answers
        self._now = now
        self._closed = threading.Event()
        self._rest = rest or self._closed.wait
        self._transport: Transport | None = None
        #: The last order, if it was to be carried out and nothing came of it.
        self._begun: _Begun | None = None

    def close(self) -> None:
        """End what is under way; everything after fails."""
        self._closed.set()
        if self._transport is not None:
            self._transport.close()

    def advice(self, certificate: bytes) -> Advice:
        """When to renew this certificate (PEM), as the authority sees it.

        Raises AuthorityFailure.
        """
        return self._explained(lambda session: self._advice(session, certificate))

    def obtain(self, name: str, replaced: bytes | None) -> bytes:
        """A new private key and a chain for it, PEM. ``replaced`` is the certificate from before.

        Raises AuthorityFailure.
        """
        return self._explained(lambda session: self._obtain(session, name, replaced))

    def _explained(self, work: Callable[[_Session], T]) -> T:
        """Do it in a new conversation. Raises AuthorityFailure."""
        self._transport = transport = Transport(self._trusted, self._now)
        network = _Network(self._key, alg=ES256, user_agent="OpusLive")
        network.session.trust_env = False
        network.session.adapters.clear()
        network.session.mount("https://", transport)
        try:
            if self._closed.is_set():
                raise errors.TimeoutError
            found = network.get(self._directory).json()
            if not all(isinstance(found.get(name), str) for name in _NEEDED):
                raise errors.ClientError("no directory")
            directory = messages.Directory.from_json(dict(found))
            return work(_Session(client.ClientV2(directory, network), transport, found))
        # The library's errors, and whatever it raises for answers that it does not expect.
        except Exception as error:
            wish = transport.retry_after if transport.refused else None
            raise failure_of(error, wish) from None
        finally:
            network.session.close()

    def _advice(self, session: _Session, certificate: bytes) -> Advice:
        base = session.directory.get("renewalInfo")
        known_as = papers.certificate_id(certificate)
        if not isinstance(base, str) or known_as is None:
            return Advice(None)
        document = session.client.net.get(f"{base.rstrip('/')}/{known_as}").json()
        return Advice(window_of(document), advice_span(session.transport.retry_after))

    def _obtain(self, session: _Session, name: str, replaced: bytes | None) -> bytes:
        self._enter(session)
        begun, self._begun = self._begun, None
        if begun is not None:
            # Authorities issue only so many certificates a week. What comes of the order from
            # before may have come by now; if not, there is a new one.
            with contextlib.suppress(Exception):
                return self._issued(session, name, begun.key, self._seen(session, begun.order))
        key = papers.new_key()
        order = self._ordered(session, name, replaced).update(csr_pem=papers.request_pem(name, key))
        self._prove_all(session, name, order)
        self._begun = _Begun(key, order)
        issued = self._issued(session, name, key, order)
        self._begun = None
        return issued

    def _issued(
        self,
        session: _Session,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        order: messages.OrderResource,
    ) -> bytes:
        return papers.issued_pem(self._finished(session, order), name, key, self._now())

    def _prove_all(self, session: _Session, name: str, order: messages.OrderResource) -> None:
        tokens: list[str] = []
        try:
            for url in order.body.authorizations[:_MAX_ITEMS]:
                self._prove(session, name, url, tokens)
        finally:
            for token in tokens:
                self._answers.pop(token, None)

    def _enter(self, session: _Session) -> None:
        """Make the account, or find the one that this key has; then its contact is ours."""
        terms = {"contact": (self._contact,), "terms_of_service_agreed": True}
        try:
            session.client.new_account(messages.NewRegistration(**terms))
        except errors.ConflictError as known:
            account = messages.RegistrationResource(
                uri=known.location, body=messages.Registration()
            )
            session.client.net.account = account
            contact = messages.UpdateRegistration(contact=(self._contact,))
            self._post(session, known.location, contact)

    def _ordered(
        self, session: _Session, name: str, replaced: bytes | None
    ) -> messages.OrderResource:
        known_as = None
        if replaced is not None and "renewalInfo" in session.directory:
            known_as = papers.certificate_id(replaced)
        identifier = messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name)
        new = messages.NewOrder(identifiers=[identifier])
        if known_as is None:
            answer = self._post(session, session.directory["newOrder"], new)
        else:
            replacing = _Order(identifiers=[identifier], replaces=known_as)
            try:
                answer = self._post(session, session.directory["newOrder"], replacing)
            except (messages.Error, errors.ConflictError) as refusal:
                if getattr(refusal, "code", None) == "rateLimited":
                    raise
                # It may have been replaced already, or be unknown there: then it is a new one.
                answer = self._post(session, session.directory["newOrder"], new)
        return messages.OrderResource(
            uri=answer.headers["Location"], body=messages.Order.from_json(answer.json())
        )

    def _prove(self, session: _Session, name: str, url: str, tokens: list[str]) -> None:
        """Prove that the name is ours, by an answer at its port 80 (RFC 8555, 8.3)."""
        identifier = messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name)
        asked = messages.AuthorizationResource(
            uri=url, body=messages.Authorization(identifier=identifier)
        )
        found, _ = session.client.poll(asked)
        if found.body.status == messages.STATUS_PENDING:
            offered = [
                each
                for each in found.body.challenges[:_MAX_ITEMS]
                if isinstance(each.chall, challenges.HTTP01)
            ]
            if not offered:
                raise errors.ClientError("no http-01")
            response, text = offered[0].chall.response_and_validation(self._key)
            token = offered[0].chall.encode("token")
            if not _TOKEN.fullmatch(token):
                raise errors.ClientError("no token")
            self._answers[token] = text
            tokens.append(token)
            session.client.answer_challenge(offered[0], response)
            for _ in self._looks(session):
                found, _ = session.client.poll(asked)
                if found.body.status != messages.STATUS_PENDING:
                    break
        if found.body.status != messages.STATUS_VALID:
            raise challenge_failed(each.error for each in found.body.challenges)

    def _finished(self, session: _Session, order: messages.OrderResource) -> bytes:
        """Have the order carried out; return the chain."""
        for _ in self._looks(session):
            body = order.body
            if body.status == messages.STATUS_VALID and body.certificate:
                chain: bytes = self._post(session, body.certificate, None).content
                return chain
            if body.status == messages.STATUS_INVALID:
                raise body.error or errors.ClientError("invalid")
            if body.status == messages.STATUS_READY:
                order = session.client.begin_finalization(order)
            else:
                order = self._seen(session, order)
        raise errors.TimeoutError

    def _seen(self, session: _Session, order: messages.OrderResource) -> messages.OrderResource:
        """The order as it is now."""
        body = messages.Order.from_json(self._post(session, order.uri, None).json())
        seen: messages.OrderResource = order.update(body=body)
        return seen

    def _looks(self, session: _Session) -> Iterator[int]:
        """Each turn is a look; rests between two of them. Raises TimeoutError after the last."""
        for number in range(MAX_LOOKS):
            if number:
                wish = session.transport.retry_after or _LOOK_SECONDS
                self._rest(min(max(wish, _LOOK_SECONDS), _LONGEST_LOOK_SECONDS))
            if self._closed.is_set():
                break
            yield number
        raise errors.TimeoutError

    def _post(self, session: _Session, url: str, content: Any) -> Any:
        """Send signed content; None asks for what is there (POST-as-GET)."""
        return session.client.net.post(url, content, new_nonce_url=session.directory["newNonce"])
