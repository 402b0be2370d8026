"""Reads what was used within a range, for the pages of the administration.

Only sums are read, and of the keys only those that used most: so it takes the same time however
many requests there were.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from opuslive.administration.figures import read_totals, total
from opuslive.administration.groups import Groups
from opuslive.administration.keys import Administration
from opuslive.administration.remembered import Sums
from opuslive.administration.reports import read_comparison
from opuslive.keys import Key
from opuslive.pricing.prices import Prices
from opuslive.web.admin.ranges import PageRange
from opuslive.web.admin.usage_view import TOP_ROWS, Part, UsageView, make_view
from opuslive.web.pages.addresses import group_address

NO_GROUP = "(no group)"


class UsageReader:
    """Makes the view of a range: of all keys, or of one."""

    def __init__(
        self, sums: Sums, prices: Prices, administration: Administration, groups: Groups
    ) -> None:
        self._sums = sums
        self._prices = prices
        self._administration = administration
        self._groups = groups

    async def read(self, chosen: PageRange, key: Key | None = None) -> UsageView:
        """Raises StorageUnavailable."""
        key_id = None if key is None else key.id
        since, until = chosen.span.since, chosen.span.read_until
        by_hour = chosen.steps.name == "hour"
        sums = await self._sums.sums(
            key_id, since=since, until=until, by="hour" if by_hour else "day"
        )
        breakdowns = []
        if key is None:
            breakdowns.append(("key", *await self._by_key(since, until)))
            groups = await self._by_group(since, until)
            breakdowns.append(("group", groups, len(groups)))
        return make_view(
            chosen,
            sums,
            await read_comparison(self._sums, self._prices, key_id, chosen.span),
            breakdowns,
            await self._sums.latencies(key_id, since=since, until=until),
            self._prices,
        )

    async def _by_key(self, since: int, until: int) -> tuple[Sequence[Part], int]:
        """The keys that used most, and how many used anything."""
        names = {key.id: key.name for key in self._administration.all_keys()}
        tokens = await self._sums.tokens_by_key(since=since, until=until)
        parts = []
        for key_id in heapq.nlargest(TOP_ROWS, tokens, key=tokens.__getitem__):
            # A key that was deleted while this was read has no name any more.
            if key_id in names:
                used = await read_totals(
                    self._sums, self._prices, key_id, since=since, until=until, by="day"
                )
                link = f"/admin/keys/{key_id}"
                parts.append(Part(key_id, names[key_id], total(used.values()), link))
        return parts, len(tokens)

    async def _by_group(self, since: int, until: int) -> Sequence[Part]:
        """The groups that used anything; none where no key has one."""
        if all(key.group is None for key in self._administration.all_keys()):
            return ()
        used = await read_totals(
            self._sums, self._prices, None, since=since, until=until, by="group"
        )
        known = self._groups.known
        return [
            Part("", NO_GROUP, totals)
            if name is None
            else Part(
                f"group {name}",
                str(name),
                totals,
                group_address(str(name)),
                without_limits=name not in known,
            )
            for name, totals in used.items()
        ]
