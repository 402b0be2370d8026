"""An upstream's own list of its models, fetched page by page."""

from __future__ import annotations

from dataclasses import dataclass, field

from opuslive.dialects import Model, ModelPage
from opuslive.gateway.upstreams.pool import fetch
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import UpstreamError
from opuslive.quantities import is_model_name

#: Seconds and bytes that a page of a list may take. (Anthropic's whole list has some 10 KB.)
FETCH_SECONDS = 10.0
MAX_LIST = 2 * 1024 * 1024
#: Pages of a list that are asked for, at most: an upstream may have them go round in a circle.
MAX_PAGES = 50
#: Models of a list that are kept: more than any provider has (some 500).
MAX_MODELS = 2_000


@dataclass(slots=True)
class Listing:
    """What came of a list.

    ``models`` are those that came: id → model. ``whole`` says that nothing failed. ``status`` is
    that of the last answer, None if the last request was not answered: ``error`` says why.
    ``accepted`` says that the upstream took the credential for at least one page. ``date`` is the
    header of the first answer, ``first_page`` its body.
    """

    models: dict[str, Model] = field(default_factory=dict)
    whole: bool = False
    status: int | None = None
    error: UpstreamError | None = None
    accepted: bool = False
    date: bytes | None = None
    first_page: bytes | None = field(default=None, repr=False)

    @property
    def refused(self) -> int | None:
        """The status with which the upstream refuses the credential, if it does."""
        return self.status if self.status in (401, 403) else None


async def list_models(upstream: Upstream, *, within: float = FETCH_SECONDS) -> Listing:
    """Fetch the list until its last page, or one that does not come ``within`` so many seconds."""
    listing = Listing()
    query = upstream.dialect.model_list_request.query
    asked: set[bytes] = set()
    while len(asked) < MAX_PAGES and len(listing.models) < MAX_MODELS:
        asked.add(query)
        page = await _fetch_page(upstream, query, listing, within)
        if page is None:
            return listing
        for model in page.models:
            if is_model_name(model.id):
                listing.models[model.id] = model
        if page.next_query is None or page.next_query in asked:
            break
        query = page.next_query
    listing.whole = True
    return listing


async def _fetch_page(
    upstream: Upstream, query: bytes, listing: Listing, within: float
) -> ModelPage | None:
    """None for a page that does not come, or is not a list."""
    asked = upstream.dialect.model_list_request
    headers = ((b"accept", b"application/json"), (b"accept-encoding", b"identity"))
    request = upstream.request("GET", asked.path, query, (*asked.headers, *headers))
    try:
        head, body = await fetch(upstream.pool, request, limit=MAX_LIST, within=within)
    except UpstreamError as error:
        listing.status, listing.error = None, error
        return None
    listing.status = head.status
    if listing.first_page is None:
        dates = (value for name, value in head.headers if name.lower() == b"date")
        listing.first_page, listing.date = body, next(dates, None)
    if head.status != 200:
        return None
    listing.accepted = True
    return upstream.dialect.read_model_list(body)
