"""What differs between the wire formats of model providers.

A dialect is pure: bytes in, facts or bytes out. It does no I/O and reads no clock.
``registry`` is the list of dialects. ``body``, ``conversations``, ``documents``, ``headers``,
``holding``, ``sse`` and ``waits`` are tools that dialects share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from opuslive.errors import OpusLiveError
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import CacheFactors
from opuslive.usage import ModelTokens, TokenCounts

#: Header names and values as they stand on the wire; names in any case.
RawHeaders = Sequence[tuple[bytes, bytes]]

#: A body in memory: bytes, or a view of an anonymous mmap for a large one.
Buffer = bytes | bytearray | memoryview

#: What a model's ``created_at`` is where nobody knows it.
EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Operation:
    """An endpoint of a dialect. An unmetered one leaves no record and uses up no limit."""

    path: str
    metered: bool = True


@dataclass(frozen=True, slots=True)
class Unserved:
    """Endpoints of a provider that are not forwarded: ``path``, and all below it.

    ``name`` says in the plural what they are for, as the beginning of a sentence.
    """

    path: str
    name: str


class NamedModels(msgspec.Struct, frozen=True, gc=False):
    """The models that a request names beside ``model``, and the tools of the provider's own.

    ``any`` says that it leaves the choice of a model to the provider. ``max_tokens`` is the largest
    bound on their output that takes the place of the request's own, in tokens. ``tools`` are the
    types of tools, ``speeds`` what the models are asked to answer at, each as it is written.
    """

    names: tuple[str, ...] = ()
    any: bool = False
    max_tokens: int | None = None
    tools: frozenset[str] = frozenset()
    speeds: tuple[str | None, ...] = ()


class Surcharges(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for beside tokens at the standard price.

    ``unpriced`` says what of it the table of prices does not have, and the remedy, as the end of a
    sentence; empty if there is nothing. ``unseen_input`` are the tokens that tools of the provider
    may bring in.
    """

    unpriced: str = ""
    unseen_input: int = 0


class InputGuess(msgspec.Struct, frozen=True, gc=False):
    """Roughly how many input tokens a request has, not tokenised.

    ``seen`` is of what stands in its body. ``unseen`` is as much as there can be of what the
    provider fetches for it.
    """

    seen: int
    unseen: int = 0


class RequestMembers(msgspec.Struct, frozen=True, gc=False):
    """The members of a request body that the gateway acts on. ``max_tokens`` is in tokens.

    ``other_models`` are further models that the request names, and that may take part in the
    answer; with ``any_model`` the provider may choose one. ``unpriced`` and ``unseen_input``:
    see ``Surcharges``.

    ``max_tokens`` covers all ``answers`` together; the member ``bound`` of the body sets it for one
    of them. ``adds_usage`` says that the stream tells its usage only because the gateway asks for
    it: the client did not, and must not see it.
    """

    model: str
    max_tokens: int | None = None
    stream: bool = False
    other_models: tuple[str, ...] = ()
    any_model: bool = False
    unpriced: str = ""
    unseen_input: int = 0
    bound: str = "max_tokens"
    answers: int = 1
    adds_usage: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it is listed. ``created_at`` is ISO 8601; the epoch where it is not known."""

    id: str
    display_name: str
    created_at: str = EPOCH


@dataclass(frozen=True, slots=True)
class ModelListRequest:
    """How an upstream is asked for the list of its models, with GET."""

    path: str
    query: bytes = b""
    headers: RawHeaders = ()


@dataclass(frozen=True, slots=True)
class PrivateHeaders:
    """Headers that speak of an account with the provider: they don't travel through the gateway.

    Names and beginnings of names are in lower case, with hyphens.
    """

    request_names: frozenset[bytes] = frozenset()
    answer_names: frozenset[bytes] = frozenset()
    answer_prefixes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPage:
    """A page of an upstream's list of models. ``next_query`` asks for the page behind it, instead
    of the ``query`` of the ``ModelListRequest``; None if this is the last one."""

    models: Sequence[Model]
    next_query: bytes | None = None


class AnswerFilter(Protocol):
    """A filter that an answer passes through on its way to the client.

    Bytes come out in the order in which they went in, and as they were. What has to wait for
    the usage record waits inside: the terminal event of a stream and all after it. An event that
    may turn out to be terminal waits for its end.
    """

    @property
    def finished(self) -> bool:
        """Whether the answer has said its last word on usage: a terminal event was seen."""

    @property
    def held(self) -> int:
        """Bytes that wait."""

    @property
    def feed(self) -> Callable[[bytes], bytes]:
        """Take the next bytes; return the bytes that the client may see now.

        Returns the chunk itself if all of it may go and nothing was held before it.
        """

    def end(self) -> bool:
        """The body ended. Return whether the answer is whole."""

    def release(self) -> bytes:
        """The usage is on disk: give up what is held. Nothing is fed after that."""


class Meter(AnswerFilter, Protocol):
    """Reads the usage of the answer that passes through it.

    What the provider told counts. What it did not tell is estimated: the output here, by the bytes
    that passed; the input by whoever knows the request (``input_told``). How the bytes are split
    makes no difference to what is counted.
    """

    @property
    def failed(self) -> bool:
        """Whether the answer itself reports that the provider gave up on it half-way."""

    @property
    def input_told(self) -> bool:
        """Whether ``counts`` has the input; else it has none."""

    @property
    def output_told(self) -> bool:
        """Whether ``counts`` has the output as the provider told it at the answer's end; else
        it is an estimate, or a floor."""

    @property
    def unseen_output(self) -> bool:
        """Whether the model also wrote what the answer does not show, or not all of it, such as
        thinking, and the provider did not tell how much: the estimate may be far too small."""

    @property
    def ends_soon(self) -> bool:
        """Whether the answer may come to its end, and tell its usage, at any moment."""

    @property
    def model(self) -> str | None:
        """The model that answered, if the provider says that it took another one than it was
        asked for."""

    def counts(self) -> TokenCounts:
        """The tokens of the model that answered, as far as they are known by now."""

    def parts(self) -> Sequence[ModelTokens]:
        """The tokens of other models that took part, none of which are in ``counts``."""


class NoUsage:
    """The meter of an answer that has not come yet, or that can't be read: it tells nothing."""

    finished = False
    held = 0
    failed = False
    input_told = False
    output_told = False
    unseen_output = False
    ends_soon = False
    model: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def end(self) -> bool:
        return True

    def release(self) -> bytes:
        return b""

    def counts(self) -> TokenCounts:
        return TokenCounts()

    def parts(self) -> Sequence[ModelTokens]:
        return ()


class ModelDocuments(Protocol):
    """What ``GET /v1/models`` answers, in one wire format. Documents are for a JSON encoder."""

    def models_document(
        self, models: Sequence[Model], query: Mapping[str, str]
    ) -> Mapping[str, object]:
        """The list of the models, or the page of it that the query parameters ask for."""

    def model_document(self, model: Model) -> Mapping[str, object]:
        """One model."""


class Dialect(ModelDocuments, Protocol):
    """One wire format."""

    @property
    def name(self) -> str:
        """As it is written in the configuration."""

    @property
    def operations(self) -> Sequence[Operation]:
        """The endpoints that are forwarded."""

    @property
    def unserved(self) -> Sequence[Unserved]:
        """The provider's other endpoints, as far as its clients are known to ask for them."""

    @property
    def cache_factors(self) -> CacheFactors:
        """What the provider charges for cached tokens where nothing else is said."""

    @property
    def private_headers(self) -> PrivateHeaders:
        """What requests and answers lose on their way, whichever upstream they go to."""

    def recognises(self, header_names: Collection[str]) -> bool:
        """Whether a request outside of the dialect's operations comes from one of its clients.

        ``header_names`` are the names in the request's head; looking one up ignores their case.
        """

    # Requests.

    def read_request(self, body: Buffer, operation: Operation) -> RequestMembers:
        """Read what the gateway needs of a request to one of the operations.

        Raises OpusLiveError (invalid_request) for a body that is not a JSON object, has no
        model, or has a member that decides the bill twice or with an impossible value.
        """

    def input_guess(self, body: Buffer) -> InputGuess:
        """Roughly how many input tokens the request has."""

    def prepare(self, body: Buffer, members: RequestMembers, model: str) -> Sequence[Buffer]:
        """The body as it goes upstream, in pieces to send one after the other.

        ``members`` are what ``read_request`` found, ``model`` is the model to ask for. Only the
        bytes that have to change differ.
        """

    def conversation(self, headers: RawHeaders, body: Buffer) -> bytes | None:
        """What a client names the conversation by that its request belongs to; None if it does not.

        ``headers`` are as they came; ``body`` is one that ``read_request`` has read.
        """

    def credential_headers(self, api_key: str) -> RawHeaders:
        """The headers that authenticate the gateway to the upstream."""

    # Answers.

    def meter(self, members: RequestMembers, *, stream: bool) -> Meter:
        """A meter for one successful answer to the request with these ``members``.

        ``stream`` says whether it is declared to be an event stream, else to be a JSON document.
        What its bytes say counts more.
        """

    def error_meter(self) -> Meter:
        """A meter for one answer with an error status: it costs what it tells, else nothing."""

    @property
    def account_statuses(self) -> frozenset[int]:
        """The statuses of answers that may speak of the gateway's account: ``account_error``
        judges them by their body."""

    def account_error(
        self, status: int, headers: RawHeaders, body: bytes, now_ms: int
    ) -> OpusLiveError | None:
        """The error to answer with instead of an upstream's answer about the gateway's account.

        The account is the gateway's credential with the provider, its credit and its rate limits;
        clients must not read about them. ``now_ms`` is the wall clock in ms since the epoch, for
        a wait that is told as a date. None if the answer may go on byte for byte.
        """

    def limit_headers(self, limits: Sequence[LimitStatus], now: int) -> Sequence[tuple[str, str]]:
        """The headers that tell a client how its key stands.

        ``limits`` is how each of the key's own limits stands. ``now`` is the moment of that, in ms
        since the epoch by the clock of windows.
        """

    def error_headers(self, error: OpusLiveError) -> Sequence[tuple[str, str]]:
        """Headers of an answer with this error, beside those that every dialect has."""

    def error_body(self, error: OpusLiveError, request_id: str) -> bytes:
        """The error as this dialect's clients expect it, as JSON."""

    # Models.

    @property
    def known_model(self) -> str | None:
        """A model that upstreams of this dialect are known to have, None if most have others."""

    def choose_model(self, models: Sequence[str]) -> str:
        """One of these models, of which there are some, that suits most purposes."""

    @property
    def model_list_request(self) -> ModelListRequest:
        """How to ask an upstream for its models."""

    def owns_model_list(self, body: bytes) -> bool:
        """Whether a body that ``read_model_list`` can read is marked as of this dialect: each
        dialect reads the lists of others, too."""

    def read_model_list(self, body: bytes) -> ModelPage | None:
        """A page of an upstream's list of models; None for a body that is no such list."""
