"""Groups: the keys that share limits, and how those limits stand.

A group is what ``[limits.groups]`` has, and what keys are in. A key may be in a group that the
configuration does not have: it is a mere label then, or a slip of the keyboard. So whoever writes
or reads the name of such a group is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from opuslive.administration.choosing import no_such_group
from opuslive.administration.states import expires_soon
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.holder import Holders
from opuslive.keys import Key
from opuslive.limits.windows import LimitStatus
from opuslive.quantities import nearest, shown


@dataclass(frozen=True, slots=True)
class Group:
    """A group, and how its limits stand. ``keys`` are its members, oldest first. ``warning`` says
    that the configuration does not have it; None if it does."""

    name: str
    limits: Sequence[LimitStatus]
    keys: Sequence[Key]
    warning: str | None

    def expiring(self, wall_ms: int) -> int:
        """How many of its keys expire soon, at this time of the wall clock."""
        return sum(expires_soon(key, wall_ms) for key in self.keys)


class Groups:
    """Reads groups."""

    def __init__(self, holders: Holders, admission: Admission) -> None:
        self._holders = holders
        self._admission = admission

    @property
    def known(self) -> Collection[str]:
        """Those that the configuration has."""
        return self._admission.group_names

    def warning(self, name: str | None) -> str | None:
        """What is to be said of the group of a key, if anything is."""
        return group_warning(name, self.known)

    def all(self) -> Sequence[Group]:
        """Every group, by its name."""
        members: defaultdict[str, list[Key]] = defaultdict(list)
        for key in self._holders.all_keys():
            if key.group is not None:
                members[key.group].append(key)
        shared = self._admission.shared_limits()
        return [
            Group(name, shared.of_group(name), members.get(name, ()), self.warning(name))
            for name in sorted({*self.known, *members})
        ]

    def find(self, name: str) -> Group:
        """The group of this name. Raises OpusLiveError (not_found)."""
        found = self.all()
        for group in found:
            if group.name == name:
                return group
        names = [group.name for group in found]
        raise no_such_group(f"There is no group {shown(name)}", name, names)


def group_warning(name: str | None, known: Collection[str]) -> str | None:
    """A sentence about a key's group that the configuration does not have; ``known`` are those that
    it has. None for no group, and for one that it has."""
    if name is None or name in known:
        return None
    meant = nearest(name, known)
    if meant is not None:
        hint = f" Did you mean {shown(meant)}?"
    elif known:
        hint = f" It has {_listed(sorted(known))}."
    else:
        hint = " It has no groups."
    return (
        f"[limits.groups] has no group {shown(name, limit=100)}, so its keys share no limits.{hint}"
    )


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
