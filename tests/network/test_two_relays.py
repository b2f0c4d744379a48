"""Two relays, and a firewall that drops everything to the first: at the start, and while applications talk."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from ..deployments import Forward, Program, Published, RunningRelay, create_at_relays
from ..endtoend.talking import SHORT_PAUSE_SECONDS, Talker, all_move, all_talking
from ..endtoend.targets import echo
from .conftest import NetworkDeployment
from .lab import CLIENT, PRIVATE, RELAY_ADDRESSES, RELAY_HOST, Lab, State

FIRST, SECOND = RELAY_HOST, str(next(RELAY_ADDRESSES.hosts()))
STREAMS = 5

pytestmark = pytest.mark.timeout(240)


@attrs.frozen
class Pair:
    """Two relays that run, each on its own address, and a hybrid connection at both."""

    deployment: NetworkDeployment
    published: Published
    target: trio.SocketListener

    def start_both_sides(self) -> tuple[Program, Forward]:
        connector = self.deployment.start_connector(self.published)
        return connector, self.deployment.start_forward(self.published, mode="auto")

    @contextlib.asynccontextmanager
    async def talking(self, lab: Lab, forward: Forward) -> AsyncIterator[list[Talker]]:
        """Applications that talk during the block, and get back what they have sent."""
        async with trio.open_nursery() as serving:
            await serving.start(partial(trio.serve_listeners, _serve_echo, [self.target]))
            talkers = [Talker(forward.port, SHORT_PAUSE_SECONDS) for _ in range(STREAMS)]
            # The applications are in the client's namespace.
            with lab.inside(CLIENT):
                async with all_talking(talkers):
                    yield talkers
            serving.cancel_scope.cancel()


async def _serve_echo(stream: trio.SocketStream) -> None:
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await echo(stream)


@pytest.fixture
def pair(tmp_path: Path, lab: Lab) -> Iterator[Pair]:
    with NetworkDeployment(tmp_path, lab) as deployment:
        states = [tmp_path / host for host in (FIRST, SECOND)]
        relays = [
            RunningRelay(deployment.start("relay", "--state", state, "--host", host), host, state)
            for host, state in zip((FIRST, SECOND), states, strict=True)
        ]
        target = lab.listen(PRIVATE)
        published = create_at_relays("live", target.getsockname(), relays, directory=tmp_path)
        yield Pair(deployment, published, trio.SocketListener(trio.socket.from_stdlib_socket(target)))


async def said(program: Program, pattern: str) -> None:
    await trio.to_thread.run_sync(lambda: program.wait_for_line(pattern, where="err", seconds=60))


async def test_the_firewall_drops_everything_to_the_first_relay_from_the_start(
    pair: Pair, lab: Lab, remark: Callable[[str], None]
) -> None:
    lab.set(State.DROPPED)
    began = trio.current_time()
    _, forward = pair.start_both_sides()
    remark(
        f"everything to the first of two relays dropped: both sides ready after {trio.current_time() - began:.1f} s"
    )
    async with pair.talking(lab, forward):
        await said(forward.program, f"session.opened: .*'tcp at {SECOND}'")


async def test_everything_to_the_first_relay_is_dropped_while_streams_run(
    pair: Pair, lab: Lab, remark: Callable[[str], None]
) -> None:
    connector, forward = pair.start_both_sides()
    await said(connector, f"registered at a relay: connection=live host={SECOND}")
    async with pair.talking(lab, forward) as talkers:
        await said(forward.program, f"session.opened: .*'tcp at {FIRST}'")
        lab.set(State.DROPPED)
        began = trio.current_time()
        await said(forward.program, f"session.resumed: .*'tcp at {SECOND}'")
        await all_move(talkers)
        remark(
            f"everything to one of two relays dropped: all streams went on after {trio.current_time() - began:.1f} s"
        )
