"""Which refusals leave a record."""

from __future__ import annotations


class Refusals:
    """Which refusals are recorded: one a second and key; the others are only counted.

    So that a client which repeats a refused request in a loop fills no disk.
    """

    def __init__(self) -> None:
        self.unrecorded = 0
        self._recorded: dict[str, int] = {}

    def to_be_recorded(self, key_id: str, time: int) -> bool:
        """``time`` is that of the record, in ms since the epoch: when the request came.

        Who waited came earlier than others who were refused before.
        """
        second = time // 1000
        if second <= self._recorded.get(key_id, -1):
            self.unrecorded += 1
            return False
        self._recorded[key_id] = second
        return True

    def forget(self, key_id: str) -> None:
        self._recorded.pop(key_id, None)
