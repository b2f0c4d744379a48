"""Sessions that outlive the relay: killed and started again, round after round, while data flows both ways.

Nothing may be left of a round: what a process holds is compared with what it held after a first one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
import trio

from ..deployments import Deployment, Program
from ..leaks import (
    MEMORY_NOISE_BYTES,
    Holdings,
    assert_back_to,
    growth,
    of_program,
    settled,
)
from ..waiting import async_wait_until
from .talking import ROUND_SECONDS, Talker, all_move, all_send
from .targets import echo, serve

#: A few where every change is tested; the soak session asks for twenty.
ROUNDS = int(os.environ.get("HYBRIDRELAY_ROUNDS", "2"))
#: The number of rounds of the second kind, in which more processes have to be started.
PEER_ROUNDS = max(1, ROUNDS // 2)
#: From here on halves of them say something about memory.
MANY_ROUNDS = 10
STREAMS = 50
CONTROL_SECONDS = 90


class Killing:
    """Applications that talk, and the relay that is killed meanwhile."""

    def __init__(self, deployment: Deployment, port: int) -> None:
        self._deployment = deployment
        self._port = port
        self.relay = deployment.programs[0]
        self.received = 0

    async def rounds(self, count: int, after_each: Callable[[], None] = lambda: None) -> None:
        """Fifty streams live through so many kills, and are closed."""
        talkers = [Talker(self._port) for _ in range(STREAMS)]
        async with trio.open_nursery() as talking:
            for talker in talkers:
                talking.start_soon(talker.run)
            await all_move(talkers)
            for _ in range(count):
                await all_send(talkers)
                self.relay.kill()
                self.relay = await trio.to_thread.run_sync(self._deployment.start_relay)
                await all_move(talkers)
                after_each()
            for talker in talkers:
                talker.stop()
        self.received += sum(talker.received for talker in talkers)


async def registered(program: Program, count: int = 1) -> Holdings:
    """What the program holds when it is quiet and has that many control channels."""

    async def look() -> bool:
        return (await of_program(program)).get("control_sessions") == count

    await async_wait_until(look, seconds=CONTROL_SECONDS, what=f"{program.name} has {count} control channels")
    return await settled(partial(of_program, program))


@pytest.mark.timeout(ROUND_SECONDS * (ROUNDS + 4))
async def test_streams_live_through_kills_of_the_relay(
    deployment: Deployment,
    nursery: trio.Nursery,
    mode: str,
    remark: Callable[[str], None],
    returning_soon: tuple[str, ...],
) -> None:
    published = deployment.create("live", await serve(nursery, echo))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode, wrapper=returning_soon)
    killing = Killing(deployment, forward.port)
    await killing.rounds(1)
    forward_base = await registered(forward.program)
    connector_base = await registered(connector)
    relay_base = await registered(killing.relay, count=2)
    ends = connector, forward.program
    memory: dict[Program, list[int]] = {program: [] for program in ends}

    def measure() -> None:
        for program in ends:
            memory[program].append(program.resident_bytes)

    await killing.rounds(ROUNDS, measure)

    await assert_back_to(connector_base, partial(of_program, connector), what="connector")
    await assert_back_to(forward_base, partial(of_program, forward.program), what="forward", or_less=True)
    await assert_back_to(relay_base, partial(of_program, killing.relay), what="the relay", or_less=True)
    remark(f"{mode}: {STREAMS} streams, {ROUNDS} kills of the relay: {killing.received} bytes each way, all intact")
    for program, sizes in memory.items():
        remark(f"  {program.name}: {', '.join(f'{size / (1 << 20):.1f}' for size in sizes)} MiB")
        assert len(sizes) < MANY_ROUNDS or growth(sizes) < MEMORY_NOISE_BYTES, sizes
    nursery.cancel_scope.cancel()


@pytest.mark.timeout(ROUND_SECONDS * (ROUNDS + 4))
async def test_a_relay_releases_the_places_of_programs_that_were_killed(
    deployment: Deployment, nursery: trio.Nursery, mode: str, remark: Callable[[str], None]
) -> None:
    """Connector and forward die in the middle of a talk, and others come in their place, round after round."""
    published = deployment.create("live", await serve(nursery, echo))
    relay = deployment.programs[0]
    memory: list[int] = []

    async def one_round() -> None:
        connector = deployment.start_connector(published, arguments=["--mode", mode])
        forward = deployment.start_forward(published, mode=mode)
        async with trio.open_nursery() as talking:
            talkers = [Talker(forward.port) for _ in range(STREAMS)]
            for talker in talkers:
                talking.start_soon(talker.run)
            await all_move(talkers)
            await all_send(talkers)
            # They would see the reset that they are going to get.
            talking.cancel_scope.cancel()
        connector.kill()
        forward.program.kill()

    await one_round()
    base = await settled(partial(of_program, relay))
    assert not base.keys() & {"peers", "listeners", "joined_pairs", "unauthenticated", "control_sessions"}
    for _ in range(PEER_ROUNDS):
        await one_round()
        await assert_back_to(base, partial(of_program, relay), what="the relay")
        memory.append(relay.resident_bytes)
    remark(f"{mode}: relay after {PEER_ROUNDS} rounds: {', '.join(f'{size / (1 << 20):.1f}' for size in memory)} MiB")
    assert len(memory) < MANY_ROUNDS or growth(memory) < MEMORY_NOISE_BYTES, memory
    nursery.cancel_scope.cancel()
