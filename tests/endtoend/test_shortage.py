"""Programs that have few descriptors, or no threads: others are not affected, and the log says what it is."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from hybridrelay._log_limit import LINES

from ..deployments import HYBRIDRELAY, Deployment, Program, Published, starting_with
from ..waiting import async_wait_until, patience
from .targets import echo, serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit")

FEW = 128
NO_THREADS = """
import _thread, threading

def start_new_thread(*args, **options):
    raise RuntimeError("can't start new thread")

_thread.start_new_thread = threading._start_new_thread = start_new_thread
"""


def _limited(soft: int, hard: int) -> tuple[str, ...]:
    return ("prlimit", f"--nofile={soft}:{hard}")


@pytest.fixture
def no_threads(tmp_path: Path) -> tuple[str, ...]:
    """Starts a program that cannot start a thread. The limit of the system is not for root."""
    return starting_with(NO_THREADS, tmp_path / "patch")


class _Applications:
    """Connections to the port of a forward."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.open: list[trio.SocketStream] = []

    async def connect(self) -> bool:
        """Open one more, if it is not reset; whether it gets an answer."""
        with trio.fail_after(patience(20)):
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            except OSError:
                return False
            if await _answers(stream):
                self.open.append(stream)
                return True
            await trio.aclose_forcefully(stream)
            return False

    async def connect_all(self, count: int) -> int:
        """Open so many more; how many get an answer."""
        return sum([await self.connect() for _ in range(count)])

    async def all_answer(self) -> bool:
        with trio.fail_after(patience(20)):
            return all([await _answers(stream) for stream in self.open])

    async def close(self) -> None:
        while self.open:
            await self.open.pop().aclose()


async def _answers(stream: trio.SocketStream) -> bool:
    try:
        await stream.send_all(b"x")
        return await stream.receive_some(1) == b"x"
    except trio.BrokenResourceError:
        return False


@pytest.fixture
async def published(deployment: Deployment, nursery: trio.Nursery) -> Published:
    return deployment.create("short", await serve(nursery, echo))


@pytest.fixture
async def applications() -> AsyncIterator[list[_Applications]]:
    """Those to be closed at the end."""
    found: list[_Applications] = []
    yield found
    for one in found:
        await one.close()


def _said(program: Program, pattern: str) -> int:
    return len(re.findall(pattern, program.err))


@pytest.mark.parametrize("program", ["connector", "forward"])
async def test_the_soft_limit_is_raised(
    program: str, deployment: Deployment, published: Published, applications: list[_Applications]
) -> None:
    limited = {program: _limited(64, 4096)}
    deployment.start_connector(published, wrapper=limited.get("connector", ()))
    forward = deployment.start_forward(published, wrapper=limited.get("forward", ()))
    applications.append(_Applications(forward.port))
    assert await applications[0].connect_all(200) == 200


async def test_a_forward_without_descriptors(
    deployment: Deployment, published: Published, applications: list[_Applications]
) -> None:
    deployment.start_connector(published)
    forward = deployment.start_forward(published, wrapper=_limited(FEW, FEW))
    mine = _Applications(forward.port)
    applications.append(mine)
    served = await mine.connect_all(FEW + 50)
    assert FEW // 2 < served < FEW
    assert await mine.all_answer()
    told = "new connections are reset: .*this program has run out of file desc"
    await forward.program.logs(told)
    assert _said(forward.program, told) == 1
    await forward.program.logs("LimitNOFILE=")
    assert "network address changed" not in forward.program.err
    await mine.close()

    async def accepts_again() -> bool:
        return await mine.connect()

    await async_wait_until(accepts_again, seconds=20, what="a new connection")


async def test_a_connector_without_descriptors(
    deployment: Deployment, published: Published, applications: list[_Applications]
) -> None:
    connector = deployment.start_connector(published, wrapper=_limited(FEW, FEW))
    forward = deployment.start_forward(published)
    mine = _Applications(forward.port)
    applications.append(mine)
    served = await mine.connect_all(FEW)
    assert 16 < served < FEW
    assert await mine.all_answer()
    await connector.logs("event='refused' .* reason='(limit|out-of-resources)'")
    await connector.logs("LimitNOFILE=")
    assert "unreachable" not in connector.err + forward.program.err
    assert "network address changed" not in connector.err
    await mine.close()

    async def accepts_again() -> bool:
        return await mine.connect()

    await async_wait_until(accepts_again, seconds=20, what="a new connection")


async def test_one_application_leaves_descriptors_to_others(
    deployment: Deployment, published: Published, nursery: trio.Nursery, applications: list[_Applications]
) -> None:
    other = deployment.create("other", await serve(nursery, echo))
    connector = deployment.start_connector(published, other, wrapper=_limited(256, 256))
    greedy = _Applications(deployment.start_forward(published).port)
    modest = _Applications(deployment.start_forward(other).port)
    applications += [greedy, modest]
    assert await greedy.connect_all(256) < 128
    assert await modest.connect_all(20) == 20
    await connector.logs("this application's share of the descriptors")


async def test_a_relay_without_descriptors(deployment: Deployment, published: Published) -> None:
    deployment.programs[0].terminate()
    relay = deployment.start_relay(wrapper=_limited(FEW, FEW))
    relay.wait_for_line("limit on descriptors of this process is too low.* descriptors=128", where="err")
    strangers = []
    for _ in range(FEW + 50):
        with contextlib.suppress(OSError):
            strangers.append(await trio.open_tcp_stream("127.0.0.1", deployment.ports["control"]))
    deployment.start_connector(published)  # strangers have a part of the descriptors only
    for stranger in strangers:
        await trio.aclose_forcefully(stranger)


async def test_no_program_needs_a_thread(
    deployment: Deployment,
    nursery: trio.Nursery,
    applications: list[_Applications],
    no_threads: tuple[str, ...],
) -> None:
    """Names cannot be resolved then, and nothing else fails. The log is written all the same."""
    deployment.programs[0].terminate()
    relay = deployment.start_relay(wrapper=no_threads)
    published = deployment.create("threads", await serve(nursery, echo))
    named = deployment.create("named", ("localhost", 1))
    connector = deployment.start_connector(published, named, wrapper=no_threads)
    forward = deployment.start_forward(published, named, wrapper=no_threads)
    mine, failing = _Applications(forward.ports[0]), _Applications(forward.ports[1])
    applications += [mine, failing]
    assert await mine.connect_all(5) == 5
    assert not await failing.connect()
    await connector.logs("cannot start another thread")
    await connector.logs("reason='out-of-resources'")
    await mine.close()
    for program in (forward.program, connector, relay):
        assert await trio.to_thread.run_sync(program.terminate) == 0


async def test_a_relay_by_name_is_waited_for_without_threads(
    deployment: Deployment, published: Published, no_threads: tuple[str, ...]
) -> None:
    text = published.connector.read_text()
    string = deployment.directory / "by-name"
    string.write_text(text.replace("127.0.0.1", "localhost", 1))
    with Program([*no_threads, *HYBRIDRELAY, "connector", "--connection-string-file", string]) as connector:
        connector.wait_for_line("cannot start another thread.*TasksMax=", where="err")
        connector.wait_for_line("relay.unavailable: .* host=localhost", where="err")
        assert await trio.to_thread.run_sync(connector.terminate) == 0
        assert "this is a bug" not in connector.err


async def test_lines_that_an_application_causes_are_limited_and_counted(deployment: Deployment) -> None:
    """Nothing is left out of the audit log, which is evidence."""
    attempts = LINES + 37
    published = deployment.create("refused", ("127.0.0.1", 1))
    connector = deployment.start_connector(published)
    forward = deployment.start_forward(published)
    mine = _Applications(forward.port)
    assert await mine.connect_all(attempts) == 0
    for program in (forward.program, connector):
        assert await trio.to_thread.run_sync(program.terminate) == 0
    lines = [line for line in forward.program.lines["err"] if "The connection of an application was reset" in line]
    (left_out,) = [line for line in lines if "more lines like this were left out" in line]
    assert len(lines) - 1 == LINES
    assert "37 more lines like this" in left_out
    assert _said(connector, "event='refused'") == attempts
