"""What the pairs of a hybrid connection have moved, added up in several steps, because there may be very many."""

from __future__ import annotations

from typing import Final

import trio

from ..core.pairs import PairTable, Traffic

__all__ = ["traffic_of"]

#: How many pairs are examined before other tasks may run: about half a millisecond's work.
_AT_A_TIME: Final = 1000


async def traffic_of(pairs: PairTable, connection: str) -> Traffic:
    """Return what `PairTable.of_connection` does, as it was at the call or later. Other tasks may run meanwhile."""
    ended, moved = pairs.parts_of_connection(connection)
    to_client, to_connector = ended.to_client, ended.to_connector
    for number, one in enumerate(moved, 1):
        to_client += one.to_client
        to_connector += one.to_connector
        if number % _AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
    return Traffic(to_client, to_connector, len(moved))
