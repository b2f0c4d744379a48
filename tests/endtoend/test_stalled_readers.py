"""Nobody reads what the programs log or print: they go on, and they end when they are told to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ..deployments import HYBRIDRELAY, Deployment, Program
from ..receiving import receive_all
from ..waiting import async_wait_until
from .targets import echo, serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes whose size can be set")

#: Each writes some hundred bytes to the log of a connector, at level debug to that of the others, too.
CONNECTIONS = 150
PIPE_BYTES = 4096


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Nothing runs yet."""
    with Deployment(tmp_path) as deployment:
        yield deployment


@contextlib.contextmanager
def _small_pipe(path: Path) -> Iterator[int]:
    """A named pipe that holds little; gives its reading end."""
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        yield reading
    finally:
        os.close(reading)


def _into(path: Path, descriptor: int) -> tuple[str | Path, ...]:
    """Starts a command whose output goes there."""
    return ("sh", "-c", f'exec "$@" {descriptor}>"$0"', path)


async def _exchange(port: int, text: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(text)
        await stream.send_eof()
        return await receive_all(stream)


async def test_nobody_reads_the_log(deployment: Deployment, nursery: trio.Nursery) -> None:
    debug = ("--log-level", "debug")
    with contextlib.ExitStack() as stack:
        pipes = {}
        for name in ("relay", "connector", "forward"):
            pipes[name] = deployment.directory / f"{name}.log"
            reading = stack.enter_context(_small_pipe(pipes[name]))
        relay = deployment.start_relay(*debug, wrapper=_into(pipes["relay"], 2))
        published = deployment.create("stalled", await serve(nursery, echo))
        connector = deployment.start_connector(published, arguments=debug, wrapper=_into(pipes["connector"], 2))
        forward = deployment.start_forward(published, arguments=debug, wrapper=_into(pipes["forward"], 2))
        with trio.fail_after(60):
            for number in range(CONNECTIONS):
                text = b"%d" % number
                assert await _exchange(forward.port, text) == text
        assert len(os.read(reading, 1 << 20)) <= PIPE_BYTES
        for program in (relay, connector, forward.program):
            program.process.send_signal(signal.SIGUSR1)
        for program in (forward.program, connector, relay):
            assert await trio.to_thread.run_sync(program.terminate) == 0
    nursery.cancel_scope.cancel()


async def test_nobody_reads_what_a_probe_prints(deployment: Deployment) -> None:
    relay = deployment.start_relay("--log-level", "debug")
    published = deployment.create("stalled", ("127.0.0.1", 1))
    path = deployment.directory / "probe.out"
    with _small_pipe(path):
        full = os.open(path, os.O_WRONLY)
        os.write(full, bytes(PIPE_BYTES))
        command = ("probe", "--connection-string-file", published.application)
        with Program([*_into(path, 1), *HYBRIDRELAY, *command]) as probe:
            relay.wait_for_line(r"channel\.failed: .* port=control ", where="err")

            async def is_printing() -> bool:
                found = await trio.to_thread.run_sync(probe.statistics)
                return not any("survey" in name for name in found["tasks_by_name"])

            await async_wait_until(is_printing, seconds=30, what="the probe has a result")
            assert await trio.to_thread.run_sync(probe.terminate) == 0
        os.close(full)
