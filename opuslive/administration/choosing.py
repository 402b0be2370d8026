"""Which keys a change is about: one, several, or all of a group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.holder import Holder, Holders
from opuslive.keys import Key
from opuslive.quantities import nearest, shown

#: Keys that one change may be about: making so many new secrets takes some 5 s.
MAX_CHOSEN = 1_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """The keys with these ids, names or display prefixes, or else all keys of a group."""

    references: Sequence[str] = ()
    group: str | None = None

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Chosen:
        """Those that the members of a JSON object describe. Raises UsageError."""
        references, group = members.get("keys"), members.get("group")
        if (references is None) == (group is None):
            raise UsageError("Say which keys: give either 'keys' or 'group'.")
        if group is not None:
            if not isinstance(group, str):
                raise UsageError("'group' is a text.")
            return cls(group=group)
        if not isinstance(references, list) or not all(
            isinstance(each, str) for each in references
        ):
            raise UsageError("'keys' is a list of texts.")
        return cls(references)

    def of(self, holders: Holders) -> Sequence[Holder]:
        """The keys, each once. Raises OpusLiveError: not_found, and invalid_request where they are
        none or too many."""
        if self.group is None:
            each = (self._find(holders, reference) for reference in self.references)
            found = list(dict.fromkeys(each))
            if not found:
                raise UsageError("Name a key at least; none was named.")
        else:
            found = sorted(
                (holder for holder in holders if holder.key.group == self.group),
                key=lambda holder: (holder.key.created_at, holder.key.id),
            )
            if not found:
                groups = {holder.key.group for holder in holders if holder.key.group is not None}
                raise no_such_group(
                    f"No key is in the group {shown(self.group)}", self.group, groups
                )
        if len(found) > MAX_CHOSEN:
            raise UsageError(
                f"These are {len(found):,} keys, and {MAX_CHOSEN:,} can be changed at once; name "
                "fewer of them at a time."
            )
        return found

    def _find(self, holders: Holders, reference: str) -> Holder:
        try:
            return holders.find(reference)
        except OpusLiveError as error:
            if len(self.references) == 1:
                raise
            message = f"Nothing was changed, because of {shown(reference)}: {error.message}"
            raise OpusLiveError(error.code, message) from None


def no_such_group(what: str, name: str, known: Iterable[str]) -> OpusLiveError:
    """``what`` begins the sentence: that there is no group of this name. ``known`` are others."""
    meant = nearest(name, known)
    hint = f"did you mean {shown(meant)}?" if meant else "'opuslive groups list' shows them all."
    return OpusLiveError(Code.NOT_FOUND, f"{what}; {hint}")


@contextlib.contextmanager
def blamed_on(key: Key, *, of_several: bool) -> Iterator[None]:
    """Name the key in errors, if it is one of several that are changed together or not at all."""
    try:
        yield
    except UsageError as error:
        if not of_several:
            raise
        raise UsageError(
            f"Nothing was changed, because of the key {shown(key.name)}: {error.message}"
        ) from None
