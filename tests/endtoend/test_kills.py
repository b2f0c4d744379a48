"""Processes that die or are stopped: nobody mistakes that for an end of file, and the others find back together."""

from __future__ import annotations

import pytest
import trio

from ..deployments import Deployment, Forward, Program
from ..waiting import async_wait_until
from .targets import echo, flood, is_served, serve

#: The far end has to hear of a dead process by then.
RESET_SECONDS = 30
#: Backing off, probing, and joining again, several times if need be.
RECOVERY_SECONDS = 90
STOP_SECONDS = 10


async def assert_is_reset(stream: trio.SocketStream) -> None:
    """Read until the connection breaks, which it has to do in time, and with a reset."""
    with trio.fail_after(RESET_SECONDS), pytest.raises(trio.BrokenResourceError) as caught:
        await read_everything(stream)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def read_everything(stream: trio.SocketStream) -> None:
    async for _ in stream:
        pass
    pytest.fail("the application saw an end of file")


async def wait_until_served(forward: Forward) -> None:
    """Until a new connection works."""

    async def served() -> bool:
        assert forward.program.process.poll() is None, forward.program.err
        return await is_served(forward.port)

    await async_wait_until(served, seconds=RECOVERY_SECONDS, what=f"a connection\n{forward.program.err}")


async def receive(stream: trio.SocketStream, size: int) -> None:
    while size > 0:
        data = await stream.receive_some()
        assert data
        size -= len(data)


async def stop(program: Program) -> int:
    return await trio.to_thread.run_sync(program.terminate, STOP_SECONDS)


async def test_a_killed_connector_resets_the_application_that_receives(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    published = deployment.create("kill", await serve(nursery, flood))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await receive(stream, 1_000_000)
        connector.kill()
        await assert_is_reset(stream)
    nursery.cancel_scope.cancel()


async def test_a_killed_connector_resets_the_application_that_sends(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    received = trio.Event()

    async def target(stream: trio.SocketStream) -> None:
        await receive(stream, 1_000_000)
        received.set()
        async for _ in stream:
            pass

    published = deployment.create("kill", await serve(nursery, target))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream, trio.open_nursery() as inner:

        async def send() -> None:
            # Nobody reads here: of a reset, the kernel tells the first who asks, and then reports an end of file.
            with pytest.raises(trio.BrokenResourceError):
                await flood(stream)

        inner.start_soon(send)
        await received.wait()
        connector.kill()
        inner.cancel_scope.deadline = trio.current_time() + RESET_SECONDS
    assert not inner.cancel_scope.cancelled_caught, "sending went on"
    nursery.cancel_scope.cancel()


async def test_a_new_connector_serves_what_the_killed_one_did(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    published = deployment.create("kill", await serve(nursery, echo))
    connector = deployment.start_connector(published)
    forward = deployment.start_forward(published, mode=mode)
    assert await is_served(forward.port)
    connector.kill()
    deployment.start_connector(published)
    await wait_until_served(forward)
    nursery.cancel_scope.cancel()


async def test_connector_and_forward_come_back_to_a_killed_relay(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    """What ran through the relay is reset; with the relay back on its ports, nothing else has to be started."""
    published = deployment.create("kill", await serve(nursery, echo))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await stream.send_all(b"hello")
        await receive(stream, 5)
        deployment.programs[0].kill()
        await assert_is_reset(stream)
    await trio.to_thread.run_sync(deployment.start_relay)
    await wait_until_served(forward)
    assert connector.process.poll() is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", ["relay", "connector", "forward"])
async def test_a_signal_stops_a_process_while_traffic_flows(
    deployment: Deployment, nursery: trio.Nursery, mode: str, who: str
) -> None:
    """It ends soon and with success, and what it carried is reset, not ended."""
    published = deployment.create("stop", await serve(nursery, flood))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    program = {"relay": deployment.programs[0], "connector": connector, "forward": forward.program}[who]
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await receive(stream, 1_000_000)
        async with trio.open_nursery() as inner:
            inner.start_soon(assert_is_reset, stream)
            assert await stop(program) == 0
    nursery.cancel_scope.cancel()
