"""Every channel that alerts go through: the webhook and the mail server, as far as they are
configured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.alerts.alerts import Message
from opuslive.gateway.alerts.delivery import Answer, Channel, Delivery

ChannelName = Literal["webhook", "mail"]
NAMES: tuple[ChannelName, ...] = get_args(ChannelName)


@dataclass(frozen=True, slots=True)
class Tried:
    """What a channel answered to a message that was sent through it once."""

    name: ChannelName
    answer: Answer


class Channels:
    """Gives each message to every channel. ``start`` it, ``send`` any time, ``close`` it."""

    def __init__(self, channels: Mapping[ChannelName, Channel]) -> None:
        self._deliveries = {name: Delivery(channels.get(name)) for name in NAMES}
        self._trying = asyncio.Lock()

    def start(self) -> None:
        """Begin to deliver."""
        for delivery in self._deliveries.values():
            delivery.start()

    def use(self, channels: Mapping[ChannelName, Channel]) -> None:
        """Use these from now on; see ``Delivery.use``."""
        for name, delivery in self._deliveries.items():
            delivery.use(channels.get(name))

    def send(self, message: Message) -> None:
        """Queue a message for every channel."""
        for delivery in self._deliveries.values():
            delivery.send(message)

    async def try_all(self, message: Message) -> list[Tried]:
        """Send the message through every channel at once, past the queues and without a second
        attempt; one call at a time. Raises OpusLiveError (overloaded) if one is under way."""
        if self._trying.locked():
            raise OpusLiveError(Code.OVERLOADED, "A test is under way; try again in a moment.")
        async with self._trying:
            channels = {
                name: delivery.channel
                for name, delivery in self._deliveries.items()
                if delivery.channel is not None
            }
            answers = await asyncio.gather(*(each.deliver(message) for each in channels.values()))
            return [Tried(name, answer) for name, answer in zip(channels, answers, strict=True)]

    async def close(self) -> None:
        """End, after a moment for what is under way."""
        await asyncio.gather(*(delivery.close() for delivery in self._deliveries.values()))
