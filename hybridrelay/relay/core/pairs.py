"""The pairs of data channels that are joined now: their two ends, and how many bytes were moved between them. Pure.

The pump counts the bytes of one pair in two integers (`Moved`), and nothing else is done for each block of bytes.
Sums are computed on request, from these integers and from the sums of the pairs that have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from ..model import KeyId
from .sorted_index import SortedIndex

__all__ = ["Moved", "Pair", "PairEnd", "PairTable", "Traffic"]


class Moved(Protocol):
    """How many bytes were handed on so far. It is counted elsewhere, while the bytes flow."""

    @property
    def to_client(self) -> int:
        """To the client's data channel."""

    @property
    def to_connector(self) -> int:
        """To the connector's data channel."""


@attrs.frozen
class PairEnd:
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

    #: The rendezvous; ``activity_id`` in events.
    id: str
    connection: str
    listener: PairEnd
    sender: PairEnd
    #: When they were joined; on the clock of the caller.
    since: float
    moved: Moved


@attrs.frozen
class Traffic:
    """Bytes each way, and how many pairs moved them."""

    to_client: int = 0
    to_connector: int = 0
    #: Joined now.
    pairs: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.to_client + other.to_client, self.to_connector + other.to_connector, self.pairs + other.pairs
        )


@attrs.define(eq=False)
class _Account:
    """How many bytes were moved for one instance, or for one hybrid connection."""

    #: By pairs that have ended.
    ended: Traffic = Traffic()
    joined: dict[str, Pair] = attrs.field(factory=dict)
    #: How many registrations or control channels it has now.
    present: int = 0

    def traffic(self) -> Traffic:
        to_client, to_connector = self.ended.to_client, self.ended.to_connector
        for pair in self.joined.values():
            to_client += pair.moved.to_client
            to_connector += pair.moved.to_connector
        return Traffic(to_client, to_connector, len(self.joined))


class PairTable:
    """See the module.

    What an instance has moved is kept while it is present or has a pair; what a hybrid connection has moved, until
    `forget`.
    """

    def __init__(self) -> None:
        """Make an empty table."""
        #: By hybrid connection and id.
        self.index: SortedIndex[Pair] = SortedIndex()
        #: Each with the accounts to which it belongs.
        self._by_id: dict[str, tuple[Pair, tuple[_Account, ...]]] = {}
        self._connections: dict[str, _Account] = {}
        self._instances: dict[tuple[str, str], _Account] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    # --- what happens

    def appears(self, connection: str, instance: str) -> None:
        """An instance has one more registration, or one more control channel with the right to join."""
        self._instances.setdefault((connection, instance), _Account()).present += 1

    def leaves(self, connection: str, instance: str) -> None:
        """The reverse of `appears`. Nothing happens if it has not appeared."""
        account = self._instances.get((connection, instance))
        if account is None:
            return
        account.present -= 1
        self._clean(connection, instance)

    def joined(self, pair: Pair) -> None:
        """Bytes are moved between two data channels from now on."""
        # A set: a peer chooses its instance, and may have chosen that of the other one.
        instances = {pair.listener.instance, pair.sender.instance}
        accounts = (
            self._connections.setdefault(pair.connection, _Account()),
            *(self._instances.setdefault((pair.connection, one), _Account()) for one in instances),
        )
        self._by_id[pair.id] = pair, accounts
        self.index.set(pair.connection, pair.id, pair)
        for account in accounts:
            account.joined[pair.id] = pair

    def ended(self, pair_id: str) -> None:
        """No more bytes are moved. Nothing happens if the pair is not known."""
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
        """A hybrid connection was deleted. What its last pairs have moved is forgotten with it."""
        self._connections.pop(connection, None)

    # --- looking at them

    def of_instance(self, connection: str, instance: str) -> Traffic:
        """What an instance has moved for a hybrid connection since it appeared."""
        account = self._instances.get((connection, instance))
        return Traffic() if account is None else account.traffic()

    def of_connection(self, connection: str) -> Traffic:
        """What was moved for a hybrid connection since the relay started."""
        account = self._connections.get(connection)
        return Traffic() if account is None else account.traffic()

    @property
    def connections(self) -> list[str]:
        """The hybrid connections that have had a pair since the relay started, or since they were created."""
        return list(self._connections)

    def has(self, connection: str) -> bool:
        """Whether it is one of `connections`."""
        return connection in self._connections

    def parts_of_connection(self, connection: str) -> tuple[Traffic, Sequence[Moved]]:
        """What the ended pairs of a hybrid connection have moved, and the counters of those that are joined.

        Together they are what `of_connection` adds up. The counters of many pairs can be added up in several steps,
        because those of a pair that ends meanwhile stay as they are.
        """
        account = self._connections.get(connection)
        return (Traffic(), ()) if account is None else (account.ended, [one.moved for one in account.joined.values()])

    def _clean(self, connection: str, instance: str) -> None:
        account = self._instances.get((connection, instance))
        if account is not None and not account.present and not account.joined:
            del self._instances[connection, instance]
