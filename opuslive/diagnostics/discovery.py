"""Finding out what an upstream speaks that nobody knows yet, by asking for its list of models."""

from __future__ import annotations

from dataclasses import replace

from opuslive.config.sections import UpstreamConfig
from opuslive.diagnostics.upstreams import ask
from opuslive.dialects import registry
from opuslive.gateway.upstreams.listing import Listing


async def find_dialect(
    upstream: UpstreamConfig, credential: str | None
) -> tuple[UpstreamConfig, Listing]:
    """The upstream with the dialect that it speaks, and what came of its list in that.

    Each dialect proves the credential in its own way, so the upstream is asked in one after the
    other until it gives its list. If it gives none, the answer is that of the first one which it
    did not refuse; else the last one's.
    """
    first: tuple[UpstreamConfig, Listing] | None = None
    for dialect in registry.DIALECTS:
        asked = replace(upstream, dialect=dialect)
        listing = await ask(asked, credential)
        if listing.whole and listing.first_page is not None:
            spoken = registry.dialect_of_model_list(listing.first_page).name
            if spoken == dialect:
                return asked, listing
            # It may take any credential, or none, where it lists models.
            asked = replace(upstream, dialect=spoken)
            return asked, await ask(asked, credential)
        if listing.error is not None:
            return asked, listing
        if first is None or first[1].refused:
            first = asked, listing
    assert first is not None
    return first
