"""The current pairs of data channels: their two ends, and how many bytes were moved between them. Pure.

For each block of bytes, the pump only adds to one of two integers of the pair (`Moved`). Sums are computed on
request, from these integers and from the sums of pairs that have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from ..._value import Value
from ..model import KeyId
from .sorted_index import SortedIndex

__all__ = ["Moved", "Pair", "PairEnd", "PairTable", "Traffic"]


class Moved(Protocol):
    """How many bytes were moved so far. The pump updates these numbers."""

    @property
    def to_client(self) -> int:
        """Bytes to the client's data channel."""

    @property
    def to_connector(self) -> int:
        """Bytes to the connector's data channel."""


@attrs.frozen
class PairEnd(Value):
    """One end of a pair: a listener, or a sender."""

    instance: str
    #: Its address group (`address_group`).
    address: str
    #: The key that authorized it.
    key: KeyId
    #: The transport of its data channel.
    transport: str = ""


@attrs.frozen(eq=False)
class Pair:
    """Two data channels that are joined."""

    #: The id of the rendezvous; ``activity_id`` in events.
    id: str
    connection: str
    listener: PairEnd
    sender: PairEnd
    #: When they were joined, on the caller's clock.
    since: float
    moved: Moved


@attrs.frozen
class Traffic(Value):
    """Bytes in each direction, and how many pairs are joined now."""

    to_client: int = 0
    to_connector: int = 0
    #: How many pairs are joined now.
    pairs: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.to_client + other.to_client, self.to_connector + other.to_connector, self.pairs + other.pairs
        )


@attrs.define(eq=False)
class _Account:
    """How many bytes were moved for one instance, or for one hybrid connection."""

    #: The traffic of pairs that have ended.
    ended: Traffic = Traffic()
    joined: dict[str, Pair] = attrs.field(factory=dict)
    #: How many registrations, or control channels, an instance has now.
    present: int = 0

    def traffic(self) -> Traffic:
        to_client, to_connector = self.ended.to_client, self.ended.to_connector
        for pair in self.joined.values():
            to_client += pair.moved.to_client
            to_connector += pair.moved.to_connector
        return Traffic(to_client, to_connector, len(self.joined))


class PairTable:
    """The pairs of a relay, and their traffic.

    The traffic of an instance is kept while the instance is present or has a pair; that of a hybrid connection, until
    `forget`.
    """

    def __init__(self) -> None:
        """Make an empty table."""
        #: The pairs by hybrid connection and id.
        self.index: SortedIndex[Pair] = SortedIndex()
        #: The pairs by id, each with the accounts for which it counts.
        self._by_id: dict[str, tuple[Pair, tuple[_Account, ...]]] = {}
        self._connections: dict[str, _Account] = {}
        self._instances: dict[tuple[str, str], _Account] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    # --- inputs

    def appears(self, connection: str, instance: str) -> None:
        """Note that an instance has one more registration, or one more control channel with the right to join."""
        self._instances.setdefault((connection, instance), _Account()).present += 1

    def leaves(self, connection: str, instance: str) -> None:
        """Undo one call of `appears`. Does nothing if there was none."""
        account = self._instances.get((connection, instance))
        if account is None or not account.present:
            return
        account.present -= 1
        self._clean(connection, instance)

    def joined(self, pair: Pair) -> None:
        """Add a pair, between whose data channels bytes are moved from now on."""
        # A set, because a client can claim any instance, even that of the listener.
        instances = {pair.listener.instance, pair.sender.instance}
        accounts = (
            self._connections.setdefault(pair.connection, _Account()),
            *(self._instances.setdefault((pair.connection, one), _Account()) for one in instances),
        )
        self._by_id[pair.id] = pair, accounts
        self.index.set(pair.connection, pair.id, pair)
        for account in accounts:
            account.joined[pair.id] = pair

    def taken_over(self, pair: Pair, settled: Traffic) -> None:
        """Add a pair of the previous main process. `settled`: how many of its bytes that process has counted for the
        hybrid connection; they are not counted again."""
        self.joined(pair)
        self._connections[pair.connection].ended += Traffic(-settled.to_client, -settled.to_connector)

    def ended(self, pair_id: str) -> None:
        """Note that no more bytes are moved for a pair. Does nothing if the pair is not known."""
        known = self._by_id.pop(pair_id, None)
        if known is None:
            return
        pair, accounts = known
        self.index.discard(pair.connection, pair_id)
        moved = Traffic(pair.moved.to_client, pair.moved.to_connector)
        for account in accounts:
            del account.joined[pair_id]
            account.ended += moved
        for end in (pair.listener, pair.sender):
            self._clean(pair.connection, end.instance)

    def forget(self, connection: str) -> None:
        """Forget the traffic of a hybrid connection that was deleted, including that of its last pairs."""
        self._connections.pop(connection, None)

    # --- reading

    def of_instance(self, connection: str, instance: str) -> Traffic:
        """Return the traffic of an instance for a hybrid connection since the instance appeared."""
        account = self._instances.get((connection, instance))
        return Traffic() if account is None else account.traffic()

    def of_connection(self, connection: str) -> Traffic:
        """Return the traffic of a hybrid connection since the relay started."""
        account = self._connections.get(connection)
        return Traffic() if account is None else account.traffic()

    @property
    def connections(self) -> list[str]:
        """The names of the hybrid connections that have had a pair since the relay started, or since they were
        created."""
        return list(self._connections)

    def has(self, connection: str) -> bool:
        """Return whether a hybrid connection is one of `connections`."""
        return connection in self._connections

    def parts_of_connection(self, connection: str) -> tuple[Traffic, Sequence[Moved]]:
        """Return the traffic of a hybrid connection's ended pairs, and the counters of its current pairs.

        `of_connection` adds these up. A caller may do that in several steps if there are many pairs, because the
        counters of a pair that ends in the meantime no longer change.
        """
        account = self._connections.get(connection)
        return (Traffic(), ()) if account is None else (account.ended, [one.moved for one in account.joined.values()])

    def _clean(self, connection: str, instance: str) -> None:
        account = self._instances.get((connection, instance))
        if account is not None and not account.present and not account.joined:
            del self._instances[connection, instance]
