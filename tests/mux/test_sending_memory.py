"""Senders of one process share its memory: some peers take nothing, and the others are still served."""

from __future__ import annotations

import trio
import trio.testing

from hybridrelay.mux import Budget, MuxStream, Session, SessionConfig
from hybridrelay.protocol.sending import SESSION_SHARE, STREAM_SHARE
from hybridrelay.testing import session_pair

from ..wrapped_streams import WrappedStream

KIB = 1024
LIMIT = 32 * 1024 * KIB
POOL = LIMIT // 8
CONFIG = SessionConfig(initial_window=1024 * KIB)


async def opened(client: Session, server: Session, count: int) -> list[tuple[MuxStream, MuxStream]]:
    """Streams: the server's end, and the client's."""
    ends = []
    for _ in range(count):
        stream = client.open_stream_nowait()
        ends.append(((await server.offers.receive()).accept(), stream))
    return ends


async def test_peers_that_read_nothing_cost_the_process_a_fixed_amount_and_nobody_else_the_service(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    process = Budget(LIMIT)
    greedy, streams = 6, 20

    async def flood(stream: MuxStream) -> None:
        while True:
            if not stream.send_nowait(bytes(min(254 * KIB, stream.send_share))):
                await stream.flush()

    for _ in range(greedy):
        client, server = await session_pair(nursery, config=CONFIG, budgets=(None, process))
        for ours, _ in await opened(client, server, streams):
            nursery.start_soon(flood, ours)
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(10)
    assert process.sending > POOL * 3 // 4
    bound = POOL + 254 * KIB + greedy * (2 * SESSION_SHARE + 256 * KIB) + greedy * streams * 3 * STREAM_SHARE
    assert process.sending <= bound

    client, server = await session_pair(nursery, config=CONFIG, budgets=(None, process))
    size = 3_000_000
    for ours, theirs in await opened(client, server, 3):
        nursery.start_soon(ours.send_all, bytes(size))
        with trio.fail_after(60):
            got = 0
            while got < size:
                got += len(await theirs.receive_some())
    nursery.cancel_scope.cancel()


async def test_all_of_it_is_given_back(autojump_clock: trio.testing.MockClock) -> None:
    process = Budget(LIMIT)
    async with trio.open_nursery() as nursery:
        client, server = await session_pair(nursery, config=CONFIG, budgets=(process, process))
        for ours, theirs in await opened(client, server, 5):
            nursery.start_soon(ours.send_all, bytes(3_000_000))
            nursery.start_soon(theirs.send_all, bytes(3_000_000))
        await trio.testing.wait_all_tasks_blocked()
        assert process.sending > 0
        nursery.cancel_scope.cancel()
    assert process.sending == 0
    assert client.core.sending.held == server.core.sending.held == 0


class Stuck(WrappedStream):
    """A channel that takes nothing any more, once `stuck` is set."""

    def __init__(self, below: trio.abc.Stream) -> None:
        super().__init__(below)
        self.stuck = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.stuck:
            await trio.sleep_forever()
        await super().send_all(data)


async def test_what_waits_below_the_session_counts_until_the_channel_is_closed(nursery: trio.Nursery) -> None:
    process = Budget(LIMIT)
    stuck: list[Stuck] = []

    def channels() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        one, other = trio.testing.memory_stream_pair()
        stuck.append(Stuck(other))
        return one, stuck[0]

    client, server = await session_pair(nursery, config=CONFIG, channels=channels, budgets=(None, process))
    ((ours, _),) = await opened(client, server, 1)
    await trio.testing.wait_all_tasks_blocked()
    stuck[0].stuck = True
    nursery.start_soon(ours.send_all, bytes(100 * KIB))
    await trio.testing.wait_all_tasks_blocked()
    kept = server.core.unacknowledged_bytes
    assert kept >= 100 * KIB
    # Once for the frames that are kept, and once for the write that is under way.
    assert process.sending >= kept + 100 * KIB
    nursery.cancel_scope.cancel()


async def test_a_lost_channel_takes_its_part_along(nursery: trio.Nursery) -> None:
    process = Budget(LIMIT)
    stuck: list[Stuck] = []

    def channels() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        one, other = trio.testing.memory_stream_pair()
        stuck.append(Stuck(other))
        return one, stuck[0]

    resumable = SessionConfig(resume_deadline=1000)
    client, server = await session_pair(nursery, config=resumable, channels=channels, budgets=(None, process))
    ((ours, _),) = await opened(client, server, 1)
    await trio.testing.wait_all_tasks_blocked()
    stuck[0].stuck = True
    nursery.start_soon(ours.send_all, bytes(100 * KIB))
    await trio.testing.wait_all_tasks_blocked()
    server.drop_channel()
    await trio.testing.wait_all_tasks_blocked()
    assert server.outcome is None
    assert server.core.unacknowledged_bytes <= process.sending < server.core.unacknowledged_bytes + 10 * KIB
    nursery.cancel_scope.cancel()
