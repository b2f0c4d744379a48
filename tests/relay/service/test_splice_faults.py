"""A relay whose system refuses `splice` in one way or another: strace injects the fault, and every byte arrives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trio

from ...deployments import HYBRIDRELAY, PORT_NAMES, Deployment, Program, free_port
from ...endtoend.targets import echo, serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice is Linux's")

DATA = bytes(range(256)) * 4096 * 3
#: Without `when`, every call fails. Each call fills or empties a pipe: from the second one on there are bytes in it.
FAULTS = ("EPERM", "EPERM:when=2+", "EPERM:when=1+2", "EINVAL:when=2+")
MORE_FAULTS = ("ENOSYS", "EOPNOTSUPP", "ENOMEM", "EINVAL", "EPERM:when=2", "EPERM:when=3+", "EPERM:when=10+")


@cache
def _why_no_strace() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False, capture_output=True)
    return None if tried.returncode == 0 else "ptrace is not permitted here"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    if why := _why_no_strace():
        pytest.skip(why)
    with Deployment(tmp_path) as deployment:
        yield deployment


def start_faulty_relay(deployment: Deployment, *faults: str, workers: int = 0) -> Program:
    """A relay in which these system calls fail: `strace`'s ``call:error=NAME``, perhaps with ``:when=``."""
    deployment.ports = {name: free_port() for name in PORT_NAMES}
    ports = ",".join(f"{name}={port}" for name, port in deployment.ports.items())
    traced = ",".join(fault.partition(":")[0] for fault in faults)
    injected = [part for fault in faults for part in ("-e", f"inject={fault}")]
    program = Program(
        [
            # -D: the relay is our child, and not strace's.
            "strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={traced}", *injected,
            *HYBRIDRELAY, "relay", "--state", deployment.state, "--host", "127.0.0.1", "--ports", ports,
            "--workers", str(workers), "--keep-pairs", "0",
        ],
        name="hybridrelay relay",
    )  # fmt: skip
    deployment.programs.append(program)
    program.wait_for_line("^ready")
    return program


async def _exchange(port: int) -> bytes:
    """Send `DATA`, and read what comes back up to its end."""
    received = bytearray()

    async def send() -> None:
        await stream.send_all(DATA)
        await stream.send_eof()

    with trio.fail_after(60):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async for data in stream:
                received += data
    return bytes(received)


@pytest.mark.parametrize("fault", [*FAULTS, *(pytest.param(fault, marks=pytest.mark.slow) for fault in MORE_FAULTS)])
@pytest.mark.parametrize("workers", [0, 1])
async def test_every_byte_arrives(deployment: Deployment, nursery: trio.Nursery, fault: str, workers: int) -> None:
    relay = start_faulty_relay(deployment, f"splice:error={fault}", workers=workers)
    published = deployment.create("db", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, published)
    forward = await trio.to_thread.run_sync(deployment.start_forward, published)
    for _ in range(2):
        assert await _exchange(forward.port) == DATA
    assert "lost" not in forward.program.err, "the data channel broke, and the session was resumed"
    # Two sockets that cannot be spliced are not worth a line in the log; a system that cannot splice is logged once.
    await trio.to_thread.run_sync(relay.terminate)
    assert relay.err.count("splice fails") == (0 if "EINVAL" in fault else 1)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("workers", [0, 1])
async def test_bytes_are_copied_where_there_are_no_pipes(
    deployment: Deployment, nursery: trio.Nursery, workers: int
) -> None:
    start_faulty_relay(deployment, "pipe2:error=EPERM", workers=workers)
    published = deployment.create("db", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, published)
    forward = await trio.to_thread.run_sync(deployment.start_forward, published)
    assert await _exchange(forward.port) == DATA
    nursery.cancel_scope.cancel()
