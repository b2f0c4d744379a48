"""A changed policy closes what it denies within the second that docs/policy.md promises, on a clock that the test
moves."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connector.config import ConnectorConfig
from hybridrelay.connector.connector import Connector
from hybridrelay.connector.policies import Policies
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import EventStream, StreamClosed
from hybridrelay.monitoring.problems import endpoint_problems
from hybridrelay.monitoring.values import ProblemStatus
from hybridrelay.mux import MuxStream
from hybridrelay.policy import Action, PolicyFile, Resource
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, PeerIdentity, Role
from hybridrelay.testing import session_pair

from .fakes import published
from .served_session import ServedSession

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
#: What docs/policy.md says: "what is denied is closed within a second".
PROMISED_SECONDS = 1.0
STEP_SECONDS = 0.05


class _AtOnce:
    """Reads files without a thread, so that nothing happens while the test does not move the clock."""

    def __init__(self, _what: str) -> None:
        pass

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.d"
    path.mkdir(mode=0o755)
    monkeypatch.setattr("hybridrelay.policy.machine.DIRECTORY", path)
    monkeypatch.setattr("hybridrelay.policy.machine.OWNER", os.getuid())
    monkeypatch.setattr("hybridrelay.policy.watching.FileThread", _AtOnce)
    return path


class Scene(ServedSession):
    """Streams of an application, at a connector with the policy of a directory."""

    @classmethod
    async def start(cls, nursery: trio.Nursery, target: HostPort) -> Scene:
        def changed() -> None:
            scene.policy = policies.policy
            scene.service.enforce()

        config = ConnectorConfig([published("orders").string])
        policies = Policies(config, EventStream(), changed=changed, time_passed=changed)
        scene = cls(*await session_pair(nursery), target, policies.policy, trio.current_time)
        nursery.start_soon(scene.serve)
        nursery.start_soon(policies.watch)
        return scene

    async def open(self) -> MuxStream:
        stream = await self.client.open_stream()
        await stream.send_all(b"ping")
        assert await stream.receive_some() == b"ping"
        return stream


async def echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # the connector resets what is denied
        async for data in stream:
            await stream.send_all(data)


async def seconds_until(condition: Callable[[], bool], clock: trio.testing.MockClock) -> float:
    """Move the clock in small steps until the condition is true. Returns how long that took on this clock."""
    began = trio.current_time()
    while not condition():
        assert trio.current_time() - began <= 10
        clock.jump(STEP_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
    return trio.current_time() - began


async def test_a_denied_stream_is_closed_within_the_promised_time(
    nursery: trio.Nursery, directory: Path, mock_clock: trio.testing.MockClock
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (other,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, echo, [listener, other])
    port = listener.socket.getsockname()[1]
    scene = await Scene.start(nursery, HostPort("127.0.0.1", port))
    streams = [await scene.open() for _ in range(3)]

    def closed() -> list[StreamClosed]:
        return [event for event in scene.events if isinstance(event, StreamClosed)]

    # A rule about something else closes nothing.
    (directory / "10.toml").write_text(f"DeniedTargets = ['*:{other.socket.getsockname()[1]}']\n")
    await seconds_until(lambda: bool(scene.policy.files), mock_clock)
    assert closed() == []

    (directory / "10.toml").write_text(f"DeniedTargets = ['*:{port}']\n")
    assert await seconds_until(lambda: len(closed()) == 3, mock_clock) <= PROMISED_SECONDS
    assert [event.reason for event in closed()] == [Reason.DENIED_BY_POLICY] * 3
    for stream in streams:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert stream.reset_reason is Reason.DENIED_BY_POLICY
    nursery.cancel_scope.cancel()


async def test_a_policy_that_cannot_be_read_closes_nothing(
    nursery: trio.Nursery, directory: Path, mock_clock: trio.testing.MockClock
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, echo, [listener])
    scene = await Scene.start(nursery, HostPort("127.0.0.1", listener.socket.getsockname()[1]))
    stream = await scene.open()
    (directory / "10.toml").write_text("DeniedTargets = [\n")
    mock_clock.jump(5)
    for _ in range(100):
        mock_clock.jump(STEP_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
    await stream.send_all(b"pong")
    assert await stream.receive_some() == b"pong"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_of_all", [True, False], ids=["of all hybrid connections", "of one"])
@pytest.mark.parametrize("fault", ["no text", "not valid", "missing", "a directory"])
async def test_a_deny_list_that_cannot_be_read_is_a_problem_until_it_can(
    directory: Path, tmp_path: Path, fault: str, is_of_all: bool
) -> None:
    """Until then, the list that was read before is in force."""
    path = tmp_path / "denied"
    path.write_text("billing\n")
    deny_list = PolicyFile(path)
    config = ConnectorConfig([published("orders").string])
    connector = Connector(attrs.evolve(config, policy=deny_list) if is_of_all else config, clock=time.time)
    if not is_of_all:
        connector.use_deny_list(0, deny_list)

    def problems() -> list[ProblemStatus]:
        found = endpoint_problems(connector.snapshot(), role="connector", stopping=False)
        return [one for one in found if one.code == "reload-failed"]

    def denied() -> list[str]:
        peers = [PeerIdentity("orders", Role.APPLICATION, label, "0A", 4e9) for label in ("billing", "reporting")]
        resource = Resource("orders", HostPort("db", 5432))
        return [
            one.label
            for one in peers
            if deny_list.policy.decide(one, Action.OPEN_SESSION, resource).reason is not None
        ]

    await connector.reload_policy()
    assert problems() == []
    path.unlink()
    if fault == "a directory":
        path.mkdir()
    elif fault != "missing":
        path.write_bytes(b"bill\xffing\n" if fault == "no text" else b"x" * 65)
    with pytest.raises(ConfigurationError):
        await connector.reload_policy()
    (problem,) = problems()
    assert str(path) in problem.detail
    assert "its last valid version stays in force" in problem.detail
    assert problem.remedy
    assert denied() == ["billing"]
    if fault == "a directory":
        path.rmdir()
    path.write_text("reporting\n")
    await connector.reload_policy()
    assert problems() == []
    assert denied() == ["reporting"]
