"""What is moved for whom: by pairs that are joined, and by those that have ended."""

from __future__ import annotations

import attrs

from hybridrelay.relay.core.pairs import Pair, PairEnd, PairTable, Traffic
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot

KEY = KeyId("db", "rule", KeySlot.PRIMARY, 1)


@attrs.define
class Counted:
    to_client: int = 0
    to_connector: int = 0


def pair(id_: str, listener: str, sender: str, moved: Counted, connection: str = "db") -> Pair:
    listener_end, sender_end = (PairEnd(instance, "192.0.2.1", KEY, "tcp") for instance in (listener, sender))
    return Pair(id_, connection, listener_end, sender_end, 0.0, moved)


def test_bytes_are_added_up_while_they_flow_and_afterwards() -> None:
    table, first, second = PairTable(), Counted(), Counted()
    table.appears("db", "listener")
    table.joined(pair("1", "listener", "a", first))
    table.joined(pair("2", "listener", "b", second))
    first.to_client, second.to_connector = 10, 5
    assert table.of_instance("db", "listener") == table.of_connection("db") == Traffic(10, 5, 2)
    assert table.of_instance("db", "a") == Traffic(10, 0, 1)
    table.ended("1")
    second.to_client = 1
    assert table.of_instance("db", "listener") == table.of_connection("db") == Traffic(11, 5, 1)
    assert table.of_instance("db", "a") == Traffic(), "it is no longer there"
    assert [position for position, _ in table.index.page(9)] == [("db", "2")]
    table.ended("2")
    table.ended("2")
    assert (len(table), table.of_instance("db", "listener")) == (0, Traffic(11, 5))


def test_what_an_instance_has_moved_is_kept_while_it_is_there() -> None:
    table, moved = PairTable(), Counted(3, 4)
    for _ in range(2):
        table.appears("db", "a")
    table.joined(pair("1", "listener", "a", moved))
    table.leaves("db", "a")
    table.ended("1")
    assert table.of_instance("db", "a") == Traffic(3, 4)
    table.leaves("db", "a")
    assert table.of_instance("db", "a") == Traffic()
    table.leaves("db", "nobody")


def test_leaving_without_having_appeared_does_nothing() -> None:
    table = PairTable()
    table.joined(pair("1", "listener", "a", Counted(3, 4)))
    table.leaves("db", "a")
    table.appears("db", "a")
    table.ended("1")
    assert table.of_instance("db", "a") == Traffic(3, 4)
    table.leaves("db", "a")
    assert table.of_instance("db", "a") == Traffic()


def test_what_an_instance_has_moved_is_kept_while_it_has_pairs() -> None:
    table = PairTable()
    table.appears("db", "a")
    for id_ in ("1", "2"):
        table.joined(pair(id_, "listener", "a", Counted(3, 4)))
    table.leaves("db", "a")
    assert table.of_instance("db", "a") == Traffic(6, 8, 2)
    table.ended("1")
    assert table.of_instance("db", "a") == Traffic(6, 8, 1)
    table.ended("2")
    assert table.of_instance("db", "a") == Traffic()


def test_a_client_that_says_the_instance_of_the_connector_is_counted_once() -> None:
    table = PairTable()
    table.joined(pair("1", "same", "same", Counted(3, 4)))
    assert table.of_instance("db", "same") == Traffic(3, 4, 1)
    table.ended("1")
    assert table.of_connection("db") == Traffic(3, 4)


def test_a_deleted_hybrid_connection_is_forgotten_with_its_last_pairs() -> None:
    table = PairTable()
    table.joined(pair("1", "listener", "a", Counted(3, 4)))
    table.forget("db")
    assert table.of_connection("db") == Traffic()
    table.joined(pair("2", "listener", "a", Counted(1, 1)))  # another one of the same name
    table.ended("1")
    assert table.of_connection("db") == Traffic(1, 1, 1)
    table.ended("2")
    table.forget("db")
    assert table.of_connection("db") == Traffic()
