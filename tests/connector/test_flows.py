"""Flows of datagrams at a connector: real UDP sockets, and a clock that the test moves."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing

from hybridrelay.connector import served_flow
from hybridrelay.connector.idle import ANSWERED_SECONDS, IDLE_SECONDS, SILENT_SECONDS
from hybridrelay.connector.requested import first_target
from hybridrelay.errors import StreamRefused
from hybridrelay.events import PolicyRefused, ShareUsedUp, StreamClosed, StreamNotConnected, StreamOpened
from hybridrelay.mux import DatagramFlow, Feature, SessionConfig
from hybridrelay.policy import Policy
from hybridrelay.policy.toml_files import parse_policy_file
from hybridrelay.protocol.config import MAX_DATAGRAM
from hybridrelay.protocol.open_metadata import PORT
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, Protocols
from hybridrelay.streams.turns import MAX_FRAMES
from hybridrelay.testing import session_pair

from .served_session import PEER, ServedSession

ALLOWED = Policy(files=(parse_policy_file("policy.toml", "AllowUdp = true"),))


class Target:
    """A UDP socket of the private network."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = trio.socket.from_stdlib_socket(socket.socket(family, socket.SOCK_DGRAM))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._host = host

    async def bind(self) -> HostPort:
        await self.socket.bind((self._host, 0))
        return HostPort(self._host, self.socket.getsockname()[1], protocols=Protocols.UDP)


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    with target.socket:
        yield target


class Scene(ServedSession):
    """An application's session, and the connector that serves its flows."""

    @classmethod
    async def start(cls, nursery: trio.Nursery, target: HostPort, policy: Policy | None = None) -> Scene:
        config = SessionConfig(metadata_types={PORT}, features=Feature.DATAGRAMS)
        client, server = await session_pair(nursery, config=config)
        scene = cls(client, server, target, policy or ALLOWED, trio.current_time)
        nursery.start_soon(scene.serve)
        return scene

    async def ended(self) -> StreamClosed:
        """The only event about the end of a flow, when it was published."""
        with trio.fail_after(1000):
            while not (found := [event for event in self.events if isinstance(event, StreamClosed)]):
                await trio.lowlevel.checkpoint()
        (event,) = found
        return event


async def exchange(flow: DatagramFlow, target: Target) -> None:
    await flow.send(b"request")
    data, address = await target.socket.recvfrom(100)
    assert data == b"request"
    await target.socket.sendto(b"the answer", address)
    assert await flow.receive() == b"the answer"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_directions_and_what_the_audit_log_says(
    nursery: trio.Nursery, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hybridrelay.audit")
    target = Target(host)
    with target.socket:
        address = await target.bind()
        scene = await Scene.start(nursery, address)
        flow = scene.client.open_flow_nowait()
        await exchange(flow, target)
        await flow.send(b"")
        assert (await target.socket.recvfrom(100))[0] == b""
        (served,) = list(scene.service)
        assert served.bytes_so_far == (7, 10)
        await flow.aclose()
        event = await scene.ended()
    assert (event.outcome, event.reason, event.to_target, event.to_client) == (
        "closed", Reason.NO_ERROR, "finished", "finished",
    )  # fmt: skip
    assert (event.bytes_to_target, event.bytes_to_client) == (7, 10)
    assert (event.datagrams_to_target, event.datagrams_to_client, event.datagrams_dropped) == (2, 1, 0)
    shown = f"[::1]:{address.port}" if host == "::1" else f"127.0.0.1:{address.port}"
    assert (event.target, event.address) == (f"{shown}/udp", shown)
    opened, closed = (vars(record)["fields"] for record in caplog.records if record.name == "hybridrelay.audit")
    assert (opened["event"], opened["target"]) == ("open", f"{shown}/udp")
    assert (closed["event"], closed["datagrams_to_target"], closed["datagrams_to_client"]) == ("closed", 2, 1)
    assert scene.counters.datagrams == {"to_target": 2, "to_client": 1}
    assert scene.counters.streams_opened == {("orders", "success"): 1}
    assert len(scene.service) == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [0, 1, 1472, 9000, MAX_DATAGRAM])
async def test_datagrams_of_every_size(nursery: trio.Nursery, target: Target, size: int) -> None:
    scene = await Scene.start(nursery, await target.bind())
    flow = scene.client.open_flow_nowait()
    content = bytes(size)
    await flow.send(content)
    data, address = await target.socket.recvfrom(MAX_DATAGRAM + 1)
    assert data == content
    await target.socket.sendto(content, address)
    assert await flow.receive() == content
    nursery.cancel_scope.cancel()


async def test_a_target_that_refuses(nursery: trio.Nursery, target: Target) -> None:
    """The ICMP message arrives with the next operation on the socket."""
    address = await target.bind()
    target.socket.close()
    scene = await Scene.start(nursery, address)
    flow = scene.client.open_flow_nowait()
    with pytest.raises(trio.BrokenResourceError, match="the target refused"):  # noqa: PT012
        await flow.send(b"anybody there?")
        await flow.receive()
    assert flow.reset_reason is Reason.TARGET_REFUSED
    event = await scene.ended()
    assert (event.outcome, event.reason, event.to_client) == ("broken", Reason.TARGET_REFUSED, "reset-by-target")
    nursery.cancel_scope.cancel()


async def test_a_name_that_is_not_found(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_found(*_args: object, **_more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "not found")

    monkeypatch.setattr(trio.socket, "getaddrinfo", not_found)
    scene = await Scene.start(nursery, HostPort("nowhere.invalid", 53, protocols=Protocols.UDP))
    flow = scene.client.open_flow_nowait()
    with pytest.raises(StreamRefused) as caught:
        await flow.wait_opened()
    assert caught.value.reason is Reason.TARGET_NAME_NOT_FOUND
    assert [type(event) for event in scene.events] == [StreamOpened, StreamNotConnected]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_dns", [True, False])
async def test_an_idle_flow_ends(
    nursery: trio.Nursery,
    target: Target,
    mock_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    is_dns: bool,
) -> None:
    address = await target.bind()
    if is_dns:
        monkeypatch.setattr("hybridrelay.connector.idle.ANSWERED_PORTS", {address.port})
    scene = await Scene.start(nursery, address)
    flow = scene.client.open_flow_nowait()
    await exchange(flow, target)
    seconds = ANSWERED_SECONDS if is_dns else IDLE_SECONDS
    mock_clock.jump(seconds - 1)
    await trio.testing.wait_all_tasks_blocked()
    assert not flow.has_ended
    if not is_dns:
        await exchange(flow, target)  # the time without datagrams begins again
        mock_clock.jump(seconds - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert not flow.has_ended
    mock_clock.jump(1)
    with pytest.raises(trio.EndOfChannel):
        await flow.receive()
    event = await scene.ended()
    assert (event.outcome, event.reason) == ("closed", Reason.NO_ERROR)
    nursery.cancel_scope.cancel()


async def test_a_flow_that_only_its_target_keeps_alive_ends(
    nursery: trio.Nursery, target: Target, mock_clock: trio.testing.MockClock
) -> None:
    scene = await Scene.start(nursery, await target.bind())
    flow = scene.client.open_flow_nowait()
    await flow.send(b"subscribe")
    _, address = await target.socket.recvfrom(100)
    await trio.testing.wait_all_tasks_blocked(0.01)
    for seconds in (*[IDLE_SECONDS - 1] * 5, SILENT_SECONDS - 5 * (IDLE_SECONDS - 1) - 1):
        mock_clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked(0.01)  # the pings of the session are answered
        await target.socket.sendto(b"news", address)
        assert await flow.receive() == b"news"
    mock_clock.jump(1)
    with pytest.raises(trio.EndOfChannel):
        await flow.receive()
    event = await scene.ended()
    assert (event.outcome, event.reason) == ("closed", Reason.NO_ERROR)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "AllowUdp is not set"),
        ("AllowUdp = false", "AllowUdp = false"),
        ('AllowUdp = true\nAllowedTargets = ["db.corp:5432"]', "AllowedTargets"),
    ],
)
async def test_a_flow_that_the_policy_denies_is_refused_with_the_rule(
    nursery: trio.Nursery, target: Target, text: str, rule: str
) -> None:
    policy = Policy(files=(parse_policy_file("policy.toml", text),))
    scene = await Scene.start(nursery, await target.bind(), policy)
    flow = scene.client.open_flow_nowait()
    await flow.send(b"request")
    with pytest.raises(StreamRefused) as caught:
        await flow.wait_opened()
    assert caught.value.reason is Reason.DENIED_BY_POLICY
    assert scene.counters.datagrams_dropped["refused"] == 1
    (refused,) = [event for event in scene.events if isinstance(event, PolicyRefused)]
    assert rule in refused.detail
    nursery.cancel_scope.cancel()


async def test_a_changed_policy_ends_open_flows(nursery: trio.Nursery, target: Target) -> None:
    scene = await Scene.start(nursery, await target.bind())
    flow = scene.client.open_flow_nowait()
    await exchange(flow, target)
    scene.policy = Policy(files=(parse_policy_file("policy.toml", "AllowUdp = false"),))
    scene.service.enforce()
    with pytest.raises(trio.BrokenResourceError):
        await flow.receive()
    assert flow.reset_reason is Reason.DENIED_BY_POLICY
    assert (await scene.ended()).reason is Reason.DENIED_BY_POLICY
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocols", [Protocols.TCP, Protocols.UDP])
async def test_a_target_is_reached_only_as_its_connection_string_says(
    nursery: trio.Nursery, protocols: Protocols
) -> None:
    scene = await Scene.start(nursery, HostPort("127.0.0.1", 9, protocols=protocols))
    opened = scene.client.open_flow_nowait() if protocols is Protocols.TCP else scene.client.open_stream_nowait()
    text = "does not accept datagrams" if protocols is Protocols.TCP else "accepts only datagrams"
    with pytest.raises(StreamRefused, match=f"this hybrid connection {text}") as caught:
        await opened.wait_opened()
    assert caught.value.reason is Reason.KIND_NOT_OFFERED
    nursery.cancel_scope.cancel()


async def test_a_session_has_a_limit(nursery: trio.Nursery, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_flow, "MAX_FLOWS_PER_SESSION", 2)
    scene = await Scene.start(nursery, await target.bind())
    flows = [scene.client.open_flow_nowait() for _ in range(2)]
    for flow in flows:
        await exchange(flow, target)
    third = scene.client.open_flow_nowait()
    with pytest.raises(StreamRefused) as caught:
        await third.wait_opened()
    assert caught.value.reason is Reason.LIMIT
    await flows[0].aclose()
    await scene.ended()
    await exchange(scene.client.open_flow_nowait(), target)
    nursery.cancel_scope.cancel()


async def test_flows_to_all_targets_count_in_one_share_of_local_ports(nursery: trio.Nursery, target: Target) -> None:
    scene = await Scene.start(nursery, await target.bind())
    scene.shares._ports = lambda: 8  # four may be used; with two flows, only two are left
    flows = [scene.client.open_flow_nowait() for _ in range(2)]
    for flow in flows:
        await exchange(flow, target)
    assert scene.shares.ports(first_target(scene.published.target)).is_unused, "these are for TCP"
    third = scene.client.open_flow_nowait()
    with pytest.raises(StreamRefused, match=r"2 flows are open, .* share of the local UDP ports") as caught:
        await third.wait_opened()
    assert caught.value.reason is Reason.LIMIT
    (event,) = [event for event in scene.events if isinstance(event, ShareUsedUp)]
    assert "ip_local_port_range" in event.remedy
    await flows[0].aclose()
    await scene.ended()
    await exchange(scene.client.open_flow_nowait(), target)
    nursery.cancel_scope.cancel()


async def test_the_local_port_of_a_flow_that_has_ended_is_kept_from_others(
    nursery: trio.Nursery, target: Target
) -> None:
    scene = await Scene.start(nursery, await target.bind())
    unused = scene.client.open_flow_nowait()
    await unused.wait_opened()
    await unused.aclose()
    await scene.ended()
    recent = scene.service._serving.recent_ports
    assert len(recent) == 0, "the target does not know this port"
    scene.events.clear()
    flow = scene.client.open_flow_nowait()
    await flow.send(b"subscribe")
    _, source = await target.socket.recvfrom(100)
    await flow.aclose()
    await scene.ended()
    way, now = (source[1], target.socket.getsockname()), trio.current_time()
    assert recent.foreign_since(way, "another application", now) is not None
    assert recent.foreign_since(way, (scene.published, PEER.owner_id), now) is None
    nursery.cancel_scope.cancel()


async def _end_session(scene: Scene, flow: DatagramFlow) -> None:
    scene.client.close()


async def _stop(scene: Scene, flow: DatagramFlow) -> None:
    scene.scope.cancel()


async def _reset(scene: Scene, flow: DatagramFlow) -> None:
    flow.reset(Reason.CANCELLED)


@pytest.mark.parametrize(
    ("end", "ending", "reason"),
    [
        (_end_session, "lost", Reason.SESSION_LOST),
        (_stop, "lost", Reason.GOING_AWAY),
        (_reset, "reset-by-application", Reason.CANCELLED),
    ],
)
async def test_every_end_is_reported_once_and_leaves_nothing(
    nursery: trio.Nursery,
    target: Target,
    end: Callable[[Scene, DatagramFlow], Awaitable[None]],
    ending: str,
    reason: Reason,
) -> None:
    scene = await Scene.start(nursery, await target.bind())
    flow = scene.client.open_flow_nowait()
    await exchange(flow, target)
    await end(scene, flow)
    event = await scene.ended()
    assert (event.outcome, event.to_client, event.reason) == ("broken", ending, reason)
    assert len(scene.service) == 0
    assert scene.shares.descriptors.is_unused
    assert scene.shares.datagram_ports.is_unused
    nursery.cancel_scope.cancel()


async def test_what_targets_send_counts_in_the_turn_of_the_application(nursery: trio.Nursery, target: Target) -> None:
    """However many flows it has, in each pass of the event loop only so many datagrams are received for it."""
    flows, burst = 20, 64
    scene = await Scene.start(nursery, await target.bind())
    sources = []
    for _ in range(flows):
        await scene.client.open_flow_nowait().send(b"send me much")
        sources.append((await target.socket.recvfrom(100))[1])
    sending = socket.fromfd(target.socket.fileno(), socket.AF_INET, socket.SOCK_DGRAM)
    with sending:
        for source in sources * burst:
            sending.sendto(b"x", source)

    def received() -> int:
        return sum((flow.bytes_so_far or (0, 0))[1] for flow in scene.service)

    most = before = received()
    assert before == 0
    with trio.fail_after(1000):
        while before < flows * burst:
            await trio.lowlevel.checkpoint()
            most, before = max(most, received() - before), received()
    assert most <= 2 * MAX_FRAMES
    nursery.cancel_scope.cancel()


async def test_datagrams_that_the_system_does_not_take_are_counted(
    nursery: trio.Nursery, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await Scene.start(nursery, await target.bind())
    flow = scene.client.open_flow_nowait()
    await exchange(flow, target)
    errors = [BlockingIOError(), OSError(errno.EMSGSIZE, "too long"), OSError(errno.ENOBUFS, "no room")]
    original = socket.socket.send

    def send(self: socket.socket, data: bytes, *flags: int) -> int:
        if self.type == socket.SOCK_DGRAM and errors:
            raise errors.pop()
        return original(self, data, *flags)

    monkeypatch.setattr(socket.socket, "send", send)
    for _ in range(3):
        await flow.send(b"lost")
    await exchange(flow, target)
    await flow.aclose()
    assert (await scene.ended()).datagrams_dropped == 3
    assert scene.counters.datagrams_dropped == {"queue": 2, "size": 1, "age": 0, "system": 0, "refused": 0}
    nursery.cancel_scope.cancel()
