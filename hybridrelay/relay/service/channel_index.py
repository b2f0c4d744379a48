"""Which control channels concern a hybrid connection, so that a change of it does not examine all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Generic, TypeVar

__all__ = ["ChannelIndex"]

ChannelT = TypeVar("ChannelT")


class ChannelIndex(Generic[ChannelT]):
    """Control channels by the hybrid connections for which their peers have presented valid tokens."""

    def __init__(self) -> None:
        """Make an empty index."""
        # Dictionaries instead of sets, because their order is always the same.
        self._channels: dict[str, dict[ChannelT, None]] = {}

    def __len__(self) -> int:
        """Return the number of hybrid connections that have any channel."""
        return len(self._channels)

    def update(self, channel: ChannelT, before: Collection[str], now: Collection[str]) -> None:
        """Note that a channel concerns other hybrid connections now than before."""
        for name in before:
            if name not in now:
                del self._channels[name][channel]
                if not self._channels[name]:
                    del self._channels[name]
        for name in now:
            if name not in before:
                self._channels.setdefault(name, {})[channel] = None

    def of(self, connections: Iterable[str]) -> list[ChannelT]:
        """Return the channels that concern any of these hybrid connections, each of them once."""
        return list(dict.fromkeys(channel for name in connections for channel in self._channels.get(name, ())))
