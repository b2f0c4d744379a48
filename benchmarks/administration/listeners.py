"""Registers at many hybrid connections of one relay, and stays registered until standard input ends.

``python -m benchmarks.administration.listeners FILE COUNT``: FILE is the connection string of a connector; the hybrid
connections are named ``many/0``, ``many/1`` and so on, and have the same key. It prints a line when all are
registered.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import trio

from hybridrelay.connectivity import Candidate, RelayEndpoint, candidates, discover
from hybridrelay.connectivity.control import Introduction, run_control_channel
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.protocol import control
from hybridrelay.security import ConnectionString, audience_for, make_token, parse_connection_string_untrusted

#: The registrations of one control channel. The relay accepts 1,024.
PER_CHANNEL = 1000
TOKEN_SECONDS = 3600


def _route() -> Candidate:
    return next(one for one in candidates(discover(), "auto") if one.route.name == "tcp")


async def _register(nursery: trio.Nursery, string: ConnectionString, names: list[str]) -> None:
    endpoint = RelayEndpoint.all_from(string)[0]
    introduction = Introduction(control.PeerRole.CONNECTOR, new_instance(), 1)
    channel = await nursery.start(partial(run_control_channel, endpoint, _route(), introduction))
    for name in names:
        audience = audience_for(string.hosts[0], name)
        token = make_token(audience, string.key_name, string.key, time.time() + TOKEN_SECONDS)
        answer = await channel.register(control.Register(channel.next_id(), name, token))
        if isinstance(answer, control.Failed):
            raise RuntimeError(f"{name} was refused: {answer.reason.slug}")


async def _main(string: ConnectionString, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for start in range(0, count, PER_CHANNEL):
            names = [f"many/{number}" for number in range(start, min(start + PER_CHANNEL, count))]
            await _register(nursery, string, names)
        print("registered", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, parse_connection_string_untrusted(Path(sys.argv[1]).read_text()), int(sys.argv[2]))
