"""The hybrid connections that a relay knows. Pure."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from types import MappingProxyType

from ..model import HybridConnection, StoreChange
from ..quotas import NO_QUOTA

__all__ = ["KnownConnections"]


class KnownConnections(Mapping[str, HybridConnection]):
    """All hybrid connections, by name. Applying a change takes time in proportion to the change.

    It changes in place. Code that iterates over it, and lets other tasks run meanwhile, needs a copy. To find out
    whether it has changed since something was computed from it, compare `revision`.
    """

    def __init__(self, connections: Mapping[str, HybridConnection] = MappingProxyType({})) -> None:
        """Begin with these hybrid connections."""
        self._by_name: dict[str, HybridConnection] = {}
        #: Increases with every change.
        self.revision = 0
        #: The names of hybrid connections for which any limit is set.
        self.limited: dict[str, None] = {}
        #: The names of hybrid connections of which a key is being rolled.
        self.rolling: dict[str, None] = {}
        for name, connection in connections.items():
            self._put(name, connection)

    def __getitem__(self, name: str) -> HybridConnection:
        return self._by_name[name]

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def items(self) -> ItemsView[str, HybridConnection]:
        """See `Mapping.items`. Faster than the inherited method, as are the next two."""
        return self._by_name.items()

    def values(self) -> ValuesView[HybridConnection]:
        """See `Mapping.values`."""
        return self._by_name.values()

    def keys(self) -> KeysView[str]:
        """See `Mapping.keys`."""
        return self._by_name.keys()

    def apply(self, change: StoreChange) -> None:
        """Apply a change. Applying it again changes nothing further."""
        for name in change.deleted:
            self._by_name.pop(name, None)
            self.limited.pop(name, None)
            self.rolling.pop(name, None)
        for name, connection in change.changed.items():
            self._put(name, connection)
        self.revision += 1

    def _put(self, name: str, connection: HybridConnection) -> None:
        self._by_name[name] = connection
        for names, belongs in ((self.limited, connection.quota != NO_QUOTA), (self.rolling, bool(connection.rolls))):
            if belongs:
                names[name] = None
            else:
                names.pop(name, None)
