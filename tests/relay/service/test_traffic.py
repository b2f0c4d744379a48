"""What very many pairs have moved is added up while other tasks run."""

from __future__ import annotations

import attrs
import trio

from hybridrelay.relay.core.pairs import Pair, PairEnd, PairTable, Traffic
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.service.traffic import _AT_A_TIME, traffic_of
from hybridrelay.security import KeySlot

END = PairEnd("ab", "192.0.2.1", KeyId("db", "rule", KeySlot.PRIMARY, 1), "tcp")


@attrs.define
class Moved:
    to_client: int
    to_connector: int


def table_with(pairs: int) -> PairTable:
    table = PairTable()
    for number in range(pairs):
        table.joined(Pair(str(number), "db", END, END, 0.0, Moved(number, 1)))
    return table


async def test_ended_and_joined_pairs_count() -> None:
    table = table_with(3)
    table.ended("2")
    assert await traffic_of(table, "db") == table.of_connection("db") == Traffic(3, 3, 2)
    assert await traffic_of(table, "unknown") == Traffic()


async def test_other_tasks_run_meanwhile_and_a_pair_that_ends_then_is_counted_once(nursery: trio.Nursery) -> None:
    table = table_with(3 * _AT_A_TIME)
    before, turns = table.of_connection("db"), 0

    async def end_pairs() -> None:
        nonlocal turns
        for number in (0, 3 * _AT_A_TIME - 1):
            table.ended(str(number))
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(end_pairs)
    found = await traffic_of(table, "db")
    assert turns == 2
    assert found == before
