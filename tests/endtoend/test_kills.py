"""Processes that die or are stopped: nobody mistakes that for an end of file, and the others find back together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio

from ..deployments import Deployment, Forward, Program
from ..waiting import async_wait_until, patience
from .conftest import MODES
from .targets import echo, flood, is_served, serve, steady_echo

#: The far end hears of a dead process after the 25 s in which a session may resume; the rest is for busy machines.
RESET_SECONDS = 60
#: Backing off, probing, and joining again, several times if need be.
RECOVERY_SECONDS = 90
STOP_SECONDS = 20


async def assert_is_reset(stream: trio.SocketStream) -> None:
    """Read until the connection breaks, which it has to do in time, and with a reset."""
    with trio.fail_after(patience(RESET_SECONDS)):
        await assert_ends_with_reset(stream)


async def assert_ends_with_reset(stream: trio.SocketStream) -> None:
    """Read until the connection breaks, which it has to do with a reset. The caller sets the deadline."""
    with pytest.raises(trio.BrokenResourceError) as caught:
        await read_everything(stream)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def read_everything(stream: trio.SocketStream) -> None:
    async for _ in stream:
        pass
    pytest.fail("the application saw an end of file")


async def wait_until_served(forward: Forward) -> None:
    """Wait until a new connection works."""

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


async def test_a_killed_connector_resets_its_applications(
    deployment: Deployment, nursery: trio.Nursery, remark: Callable[[str], None]
) -> None:
    """Over every transport at the same time: one application that receives, and one that sends."""

    async def sink(stream: trio.SocketStream) -> None:
        await receive(stream, 1_000_000)
        started.release()
        async for _ in stream:
            pass

    async def receiver(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await receive(stream, 1_000_000)
            started.release()
            await assert_ends_with_reset(stream)

    async def sender(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            # Nothing reads here: the kernel reports a reset to one system call only, and then an end of file.
            with pytest.raises(trio.BrokenResourceError):
                await flood(stream)

    started = trio.Semaphore(0)
    connectors = []
    targets = {receiver: await serve(nursery, flood), sender: await serve(nursery, sink)}
    async with trio.open_nursery() as applications:
        for mode in MODES:
            published = [deployment.create(f"{mode}-{n}", target) for n, target in enumerate(targets.values())]
            connectors.append(deployment.start_connector(*published, arguments=["--mode", mode]))
            forward = deployment.start_forward(*published, mode=mode)
            for application, port in zip(targets, forward.ports, strict=True):
                applications.start_soon(application, port)
                await started.acquire()
        for connector in connectors:
            connector.kill()
        began = trio.current_time()
        applications.cancel_scope.deadline = began + patience(RESET_SECONDS)
    assert not applications.cancel_scope.cancelled_caught, "an application was not told"
    remark(f"connector killed: all applications were reset after {trio.current_time() - began:.1f} s")
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


async def test_everybody_comes_back_to_a_killed_relay(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    """Once the relay is back on its ports, nothing else has to be started, and what was open continues."""
    published = deployment.create("kill", await serve(nursery, echo))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    async with steady_echo(forward.port) as one_more:
        deployment.programs[0].kill()
        await trio.to_thread.run_sync(deployment.start_relay)
        await wait_until_served(forward)
        await one_more()
    assert connector.process.poll() is None
    nursery.cancel_scope.cancel()


async def test_a_signal_stops_the_relay_while_traffic_flows(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    """It ends soon and with success; the traffic waits, and goes on through the next main process."""
    published = deployment.create("stop", await serve(nursery, flood))
    deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await receive(stream, 1_000_000)
        assert await stop(deployment.programs[0]) == 0
        await trio.to_thread.run_sync(deployment.start_relay)
        with trio.fail_after(patience(RECOVERY_SECONDS)):
            await receive(stream, 50_000_000)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", ["connector", "forward"])
async def test_a_signal_stops_a_process_while_traffic_flows(
    deployment: Deployment, nursery: trio.Nursery, mode: str, who: str
) -> None:
    """It gives what is open its grace, then ends with success; what was not finished is reset, not ended."""
    published = deployment.create("stop", await serve(nursery, flood))
    grace = ["--grace", "1"]
    connector = deployment.start_connector(published, arguments=["--mode", mode, *grace])
    forward = deployment.start_forward(published, mode=mode, arguments=grace)
    program = {"connector": connector, "forward": forward.program}[who]
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await receive(stream, 1_000_000)
        async with trio.open_nursery() as inner:
            inner.start_soon(assert_is_reset, stream)
            assert await stop(program) == 0
    nursery.cancel_scope.cancel()


async def test_a_killed_forward_resets_its_application(
    deployment: Deployment, nursery: trio.Nursery, mode: str
) -> None:
    """The kernel closes what the dead process had open; that must not look like the end of the data."""
    published = deployment.create("kill", await serve(nursery, flood))
    deployment.start_connector(published)
    forward = deployment.start_forward(published, mode=mode)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await receive(stream, 1_000_000)
        forward.program.kill()
        await assert_is_reset(stream)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("remembers", [True, False], ids=["by default", "none"])
async def test_a_killed_connector_that_is_back_has_its_clients_reset_at_once(
    deployment: Deployment, nursery: trio.Nursery, remembers: bool
) -> None:
    """Without an option, it remembers its instance wherever possible. The deadline of the sessions is far away."""
    patient = ["--resume-deadline", "600"]
    arguments = patient if remembers else [*patient, "--instance-file", "none"]
    published = deployment.create("back", await serve(nursery, flood))
    connector = deployment.start_connector(published, arguments=arguments)
    beside = deployment.start_connector(published, arguments=arguments)
    beside.kill()  # two of them share no file
    forward = deployment.start_forward(published, arguments=patient)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await receive(stream, 1_000_000)
        connector.kill()
        await trio.to_thread.run_sync(partial(deployment.start_connector, published, arguments=arguments))
        with trio.move_on_after(patience(30) if remembers else 3) as waited:
            await assert_is_reset(stream)
        assert waited.cancelled_caught is not remembers
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await receive(stream, 1_000)
    nursery.cancel_scope.cancel()


async def test_a_killed_connector_resets_its_target(deployment: Deployment, nursery: trio.Nursery, mode: str) -> None:
    started, told = trio.Event(), trio.Event()

    async def sink(stream: trio.SocketStream) -> None:
        await receive(stream, 1_000_000)
        started.set()
        await assert_is_reset(stream)
        told.set()

    async def send(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await flood(stream)

    published = deployment.create("kill", await serve(nursery, sink))
    connector = deployment.start_connector(published)
    nursery.start_soon(send, deployment.start_forward(published, mode=mode).port)
    await started.wait()
    connector.kill()
    await told.wait()
    nursery.cancel_scope.cancel()
