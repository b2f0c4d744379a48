"""Local ports for datagrams, with a session in the same process, and a clock that the test moves."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from hybridrelay._datagram_address import DatagramAddress
from hybridrelay._wildcard_datagrams import LocalSocket, Source
from hybridrelay.client import Client, run_forward
from hybridrelay.client.ingress import datagrams
from hybridrelay.client.ingress.datagrams import IDLE_SECONDS, PAUSE_SECONDS, SILENT_SECONDS
from hybridrelay.client.requests import StreamRequests
from hybridrelay.client.stream_events import StreamReports
from hybridrelay.connectivity.counters import EndpointCounters
from hybridrelay.errors import ConfigurationError, RelayUnreachable, StreamRefused
from hybridrelay.events import (
    DatagramsDropped,
    Event,
    EventStream,
    FlowNotOpened,
    FlowsUsedUp,
    ForwardOpenToOthers,
    InternalError,
    StreamClosed,
    StreamNotOpened,
)
from hybridrelay.mux import DatagramFlow, Feature, Session, SessionConfig
from hybridrelay.protocol.datagrams import MAX_WAIT_SECONDS
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString
from hybridrelay.streams.turns import MAX_FRAMES, SharedTurns
from hybridrelay.testing import session_pair

from ..strings import STRING

#: The sockets of the test that runs.
OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


class FakeClient(Client):
    """A client whose session is one of this process."""

    listening: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self, session: Session) -> None:
        self.session = session
        self.published: list[Event] = []
        self.counters = EndpointCounters()
        self.requests = StreamRequests(lambda: STRING, self.counters)
        self.reports = StreamReports(self.events, self.requests, lambda _: "0A", self.counters)
        self.attempts = 0
        #: Set when there is a session.
        self.has_session = trio.Event()
        self.has_session.set()

    def set_listening(self, addresses: Sequence[str], *, left_out: Sequence[str] = ()) -> None:
        self.listening, self.left_out = tuple(addresses), tuple(left_out)

    @property
    def connection(self) -> str:
        return "dns"

    @property
    def connection_string(self) -> ConnectionString:
        return STRING

    @property
    def events(self) -> EventStream:
        return EventStream(self.published.append)

    @property
    def open_stream_count(self) -> int:
        return 0

    @property
    def open_patience(self) -> float:
        return 1.0

    async def connect(self, *, patience: float | None = None) -> Session:
        await trio.lowlevel.checkpoint()
        raise RelayUnreachable("not used")

    async def open_flow(
        self,
        *,
        port: int | None = None,
        wait_opened: bool = True,
        patience: float | None = None,
        application: Callable[[], str] = str,
    ) -> DatagramFlow:
        self.attempts += 1
        with self.reports.request_flow(application) as follow:
            await self.has_session.wait()
            flow = self.session.open_flow_nowait()
            follow(flow)
        return flow


class Program:
    """An application with a UDP socket."""

    def __init__(self, host: str, port: int) -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket = trio.socket.from_stdlib_socket(sock)
        self._to = (host, port)
        OPEN.append(sock)

    async def send(self, data: bytes) -> None:
        await self.socket.sendto(data, self._to)

    async def receive(self) -> bytes:
        data, source = await self.socket.recvfrom(70_000)
        assert source[:2] == self._to, "the answer comes from the address that the request was sent to"
        return data


class Scene:
    def __init__(self, client: FakeClient, connector: Session, bound: tuple[str, int], stop: trio.Event) -> None:
        self.client = client
        self.connector = connector
        self.bound = bound
        self.stop = stop

    @classmethod
    async def start(cls, nursery: trio.Nursery, host: str = "127.0.0.1") -> Scene:
        session, connector = await session_pair(nursery, config=SessionConfig(features=Feature.DATAGRAMS))
        client, stop = FakeClient(session), trio.Event()
        forward = partial(run_forward, client, [DatagramAddress(host, 0)], stop=stop)
        (bound,) = await nursery.start(forward)
        return cls(client, connector, bound, stop)

    def program(self) -> Program:
        return Program(*self.bound)

    async def accept(self) -> DatagramFlow:
        return (await self.connector.offers.receive()).accept_flow()


def send_at_once(scene: Scene, count: int, size: int) -> None:
    """Send datagrams while the forward does not run."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(bytes(size), scene.bound)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what each socket has lost")
async def test_a_burst_is_received_and_what_the_system_drops_is_counted(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """Without a larger buffer, 280 datagrams would be kept."""
    scene = await Scene.start(nursery)
    scene.client.has_session = trio.Event()

    def dropped() -> dict[str, int]:
        return scene.client.counters.copy().datagrams_dropped

    send_at_once(scene, 500, 10)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert dropped() == {"queue": 500 - 64, "age": 0, "size": 0, "system": 0, "refused": 0}
    send_at_once(scene, 5000, 1400)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (lost := dropped()["system"]) > 1000
    mock_clock.jump(datagrams.REPORT_SECONDS)
    await trio.testing.wait_all_tasks_blocked(0.01)
    (event,) = [one for one in scene.client.published if isinstance(one, DatagramsDropped)]
    assert event.address == f"127.0.0.1:{scene.bound[1]}"
    assert (event.system, event.queue + event.system + 2 * 64) == (lost, 5500)
    nursery.cancel_scope.cancel()


async def test_what_is_dropped_for_a_flow_that_was_not_opened_is_counted(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    scene = await Scene.start(nursery)
    program = scene.program()
    await program.send(b"request")
    (await scene.connector.offers.receive()).refuse(Reason.TARGET_REFUSED)
    await trio.testing.wait_all_tasks_blocked(0.01)
    for _ in range(3):
        await program.send(b"again")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert scene.client.counters.copy().datagrams_dropped["refused"] == 3
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_each_source_address_is_a_flow(nursery: trio.Nursery, host: str) -> None:
    scene = await Scene.start(nursery, host)
    one, two = scene.program(), scene.program()
    await one.send(b"from one")
    first = await scene.accept()
    assert await first.receive() == b"from one"
    await two.send(b"from two")
    second = await scene.accept()
    assert await second.receive() == b"from two"
    await one.send(b"")
    assert await first.receive() == b""
    for flow, program, answer in ((first, one, b"to one"), (second, two, b"x" * 60_000), (first, one, b"")):
        await flow.send(answer)
        assert await program.receive() == answer
    applications = [request.application for request in scene.client.requests]
    names = [program.socket.getsockname()[1] for program in (one, two)]
    assert [int(address.rpartition(":")[2]) for address in applications] == names
    await first.aclose()
    with trio.fail_after(60):
        while not (closed := [event for event in scene.client.published if isinstance(event, StreamClosed)]):
            await trio.lowlevel.checkpoint()
    assert (closed[0].outcome, closed[0].datagrams_to_target, closed[0].datagrams_to_client) == ("closed", 2, 2)
    assert scene.client.counters.datagrams == {"to_target": 2, "to_client": 2}
    await one.send(b"again")
    assert await (await scene.accept()).receive() == b"again"
    nursery.cancel_scope.cancel()


async def test_datagrams_wait_for_a_session(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    scene = await Scene.start(nursery)
    scene.client.has_session = trio.Event()
    program = scene.program()
    await program.send(b"too early")
    await trio.testing.wait_all_tasks_blocked(0.01)
    mock_clock.jump(1)
    await program.send(b"in time")
    await trio.testing.wait_all_tasks_blocked(0.01)
    scene.client.has_session.set()
    assert await (await scene.accept()).receive() == b"in time"
    assert scene.client.attempts == 1
    nursery.cancel_scope.cancel()


def test_the_memory_of_a_port_has_a_limit() -> None:
    memory = datagrams._EarlyMemory()
    assert memory.take(datagrams.MAX_EARLY_BYTES)
    assert not memory.take(1)
    memory.release(1)
    assert memory.take(1)


async def test_what_waits_for_a_session_is_within_the_memory_of_the_port(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late datagrams make room for others, even if nothing more arrives from their program."""
    monkeypatch.setattr(datagrams, "MAX_EARLY_BYTES", 1000)
    scene = await Scene.start(nursery)
    scene.client.has_session = trio.Event()
    one, two = scene.program(), scene.program()
    await one.send(b"1" * 600)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await two.send(b"2" * 600)
    await trio.testing.wait_all_tasks_blocked(0.01)
    for _ in range(2):
        mock_clock.jump(MAX_WAIT_SECONDS)
        await trio.testing.wait_all_tasks_blocked(0.01)
    await two.send(b"3" * 600)
    await trio.testing.wait_all_tasks_blocked(0.01)
    scene.client.has_session.set()
    flows = [await scene.accept(), await scene.accept()]
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert sorted(flow.receive_nowait() or b"" for flow in flows) == [b"", b"3" * 600]
    nursery.cancel_scope.cancel()


async def test_what_waited_for_a_session_that_was_not_opened_takes_no_memory(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "MAX_EARLY_BYTES", 1000)
    scene = await Scene.start(nursery)
    original = scene.client.open_flow

    async def fail(**_options: object) -> DatagramFlow:
        await scene.client.has_session.wait()
        raise RelayUnreachable("no session")

    scene.client.has_session = trio.Event()
    monkeypatch.setattr(scene.client, "open_flow", fail)
    await scene.program().send(b"1" * 600)
    await trio.testing.wait_all_tasks_blocked(0.01)
    scene.client.has_session.set()
    await trio.testing.wait_all_tasks_blocked(0.01)
    scene.client.has_session = trio.Event()
    monkeypatch.setattr(scene.client, "open_flow", original)
    await scene.program().send(b"2" * 600)
    await trio.testing.wait_all_tasks_blocked(0.01)
    scene.client.has_session.set()
    assert await (await scene.accept()).receive() == b"2" * 600
    nursery.cancel_scope.cancel()


async def test_an_idle_flow_ends(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    scene = await Scene.start(nursery)
    program = scene.program()
    await program.send(b"request")
    flow = await scene.accept()
    assert await flow.receive() == b"request"
    mock_clock.jump(IDLE_SECONDS - 1)
    await flow.send(b"answer")
    assert await program.receive() == b"answer"
    await trio.testing.wait_all_tasks_blocked(0.01)  # the pings of the session are answered
    mock_clock.jump(IDLE_SECONDS - 1)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not flow.has_ended
    mock_clock.jump(1)
    with pytest.raises(trio.EndOfChannel):
        await flow.receive()
    assert len(scene.client.requests) == 0
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports what has reached no program")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
async def test_the_flow_of_a_program_that_has_closed_its_socket_ends(nursery: trio.Nursery, host: str) -> None:
    """With the first answer, so that another program with the same port does not get the next ones."""
    scene = await Scene.start(nursery, host)
    loopback = "127.0.0.1" if host == "0.0.0.0" else host
    gone, other = (Program(loopback, scene.bound[1]) for _ in range(2))
    flows = []
    for program in (gone, other):
        await program.send(b"subscribe")
        flows.append(await scene.accept())
        assert await flows[-1].receive() == b"subscribe"
    address = gone.socket.getsockname()
    gone.socket.close()
    flows[0].send_nowait(b"for nobody")
    flows[1].send_nowait(b"news")
    assert await other.receive() == b"news", "the error of one answer does not prevent the next one"
    with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
        await flows[0].receive()
    later = Program(loopback, scene.bound[1])
    await later.socket.bind((loopback, address[1]))
    await other.send(b"more")
    assert await flows[1].receive() == b"more"
    await later.send(b"its own")
    flow = await scene.accept()
    assert await flow.receive() == b"its own"
    await flow.send(b"answer")
    assert await later.receive() == b"answer"
    assert not [event for event in scene.client.published if isinstance(event, InternalError)]
    nursery.cancel_scope.cancel()


async def test_a_flow_that_only_the_connector_keeps_alive_ends(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """Even if the connector does not end it, which is of an earlier version or misbehaves."""
    scene = await Scene.start(nursery)
    program = scene.program()
    await program.send(b"subscribe")
    flow = await scene.accept()
    assert await flow.receive() == b"subscribe"
    passed = 0.0
    while passed < SILENT_SECONDS - 1:
        step = min(IDLE_SECONDS - 1, SILENT_SECONDS - 1 - passed)
        mock_clock.jump(step)
        passed += step
        await trio.testing.wait_all_tasks_blocked(0.01)  # the pings of the session are answered
        await flow.send(b"news")
        assert await program.receive() == b"news"
    assert not flow.has_ended
    mock_clock.jump(1)
    with pytest.raises(trio.EndOfChannel):
        await flow.receive()
    await program.send(b"subscribe again")
    assert await (await scene.accept()).receive() == b"subscribe again"
    nursery.cancel_scope.cancel()


async def test_what_programs_send_to_all_ports_counts_in_one_turn(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ports there are, in each pass of the event loop only so many datagrams are received."""
    ports, burst = 16, 64
    session, _ = await session_pair(nursery, config=SessionConfig(features=Feature.DATAGRAMS))
    client = FakeClient(session)
    client.has_session = trio.Event()
    addresses = [DatagramAddress("127.0.0.1", 0)] * ports
    bound: list[tuple[str, int]] = await nursery.start(partial(run_forward, client, addresses))
    await trio.testing.wait_all_tasks_blocked()
    received, original = 0, datagrams._Port._receive_nowait

    def counted(self: datagrams._Port) -> int:
        nonlocal received
        size = original(self)
        received += 1
        return size

    monkeypatch.setattr(datagrams._Port, "_receive_nowait", counted)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in bound * burst:
            sock.sendto(b"x", port)
    most = before = 0
    with trio.fail_after(60):
        while received < ports * burst:
            await trio.lowlevel.checkpoint()
            most, before = max(most, received - before), received
    assert most <= 2 * MAX_FRAMES
    nursery.cancel_scope.cancel()


async def test_after_a_refusal_there_is_a_pause(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    scene = await Scene.start(nursery)
    program = scene.program()
    for attempt in (1, 2):
        await program.send(b"request")
        offer = await scene.connector.offers.receive()
        offer.refuse(Reason.TARGET_REFUSED)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(3):
            await program.send(b"again")
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert scene.client.attempts == attempt
        mock_clock.jump(PAUSE_SECONDS)
        await trio.testing.wait_all_tasks_blocked(0.01)
    refused = [event.reason for event in scene.client.published if isinstance(event, StreamNotOpened)]
    assert refused == [Reason.TARGET_REFUSED] * 2
    said = [event for event in scene.client.published if isinstance(event, FlowNotOpened)]
    assert [(event.connection, event.reason) for event in said] == [("dns", Reason.TARGET_REFUSED)] * 2
    assert {event.application for event in said} == {f"127.0.0.1:{program.socket.getsockname()[1]}"}
    assert all(event.detail for event in said)
    nursery.cancel_scope.cancel()


async def test_the_number_of_flows_is_limited(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "MAX_LOCAL_FLOWS", 2)
    scene = await Scene.start(nursery)
    programs = [scene.program() for _ in range(4)]
    for program in programs:
        await program.send(b"x")
    flows = [await scene.accept(), await scene.accept()]
    with trio.fail_after(60):
        while not [event for event in scene.client.published if isinstance(event, FlowsUsedUp)]:
            await trio.lowlevel.checkpoint()
    for flow in flows:
        await flow.aclose()
    with trio.fail_after(60):
        while len(scene.client.requests):
            await trio.lowlevel.checkpoint()
    await programs[3].send(b"now")
    assert await (await scene.accept()).receive() == b"now"
    assert len([event for event in scene.client.published if isinstance(event, FlowsUsedUp)]) == 1
    nursery.cancel_scope.cancel()


async def test_a_flow_that_was_idle_for_longest_ends_for_a_new_one(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(datagrams, "MAX_LOCAL_FLOWS", 2)
    scene = await Scene.start(nursery)
    one, two, three = (scene.program() for _ in range(3))
    flows = []
    for program in (one, two):
        await program.send(b"x")
        flows.append(await scene.accept())
        assert await flows[-1].receive() == b"x"
        mock_clock.jump(0.1)
    await one.send(b"y")
    assert await flows[0].receive() == b"y"
    mock_clock.jump(datagrams.DISPLACE_SECONDS)
    await three.send(b"z")
    assert await (await scene.accept()).receive() == b"z"
    with pytest.raises(trio.EndOfChannel):
        await flows[1].receive()
    await one.send(b"still there")
    assert await flows[0].receive() == b"still there"
    assert [event for event in scene.client.published if isinstance(event, FlowsUsedUp)] == []
    nursery.cancel_scope.cancel()


async def test_a_bug_ends_one_flow_only(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = await Scene.start(nursery)
    original = scene.client.open_flow

    async def fail(**_options: object) -> DatagramFlow:
        raise KeyError("a bug")

    monkeypatch.setattr(scene.client, "open_flow", fail)
    await scene.program().send(b"x")
    with trio.fail_after(60):
        while not [event for event in scene.client.published if isinstance(event, InternalError)]:
            await trio.lowlevel.checkpoint()
    monkeypatch.setattr(scene.client, "open_flow", original)
    await scene.program().send(b"y")
    assert await (await scene.accept()).receive() == b"y"
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports that a program has closed its socket")
async def test_an_answer_to_a_program_that_is_gone_is_not_sent_again(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have got the same port. An answer to another program is sent again: the error was not
    about it."""
    sent: list[tuple[bytes, int]] = []
    original = LocalSocket.send

    def send(self: LocalSocket, data: bytes, to: Source) -> None:
        sent.append((data, to[0][1]))
        original(self, data, to)

    monkeypatch.setattr(LocalSocket, "send", send)
    session, _ = await session_pair(nursery)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        for sock in (own, gone, other):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        to_gone, to_other = (gone.getsockname(), ()), (other.getsockname(), ())
        gone.close()
        port = datagrams._Port(FakeClient(session), own, nursery, None, SharedTurns())
        port.send(b"1", to_gone)
        port.send(b"2", to_gone)  # the system reports that the first one has reached nobody
        assert sent == [(b"1", to_gone[0][1]), (b"2", to_gone[0][1])]
        port.send(b"3", to_gone)
        port.send(b"4", to_other)
        assert sent[2:] == [(b"3", to_gone[0][1]), *[(b"4", to_other[0][1])] * 2]
        assert other.recv(10) == b"4"
    nursery.cancel_scope.cancel()


async def test_what_arrives_for_a_flow_that_was_ended_is_not_sent(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have got the port of the one that is gone."""
    session, connector = await session_pair(nursery, config=SessionConfig(features=Feature.DATAGRAMS))
    sent: list[bytes] = []
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program,
    ):
        own.bind(("127.0.0.1", 0))
        own.setblocking(False)
        port = datagrams._Port(FakeClient(session), own, nursery, None, SharedTurns())
        monkeypatch.setattr(port, "send", lambda data, to: sent.append(data))
        nursery.start_soon(port.receive)
        program.sendto(b"request", own.getsockname())
        remote = (await connector.offers.receive()).accept_flow()
        (flow,) = port._flows.values()
        arrived = SimpleNamespace(has_input=True, has_ended=False, receive_nowait=lambda: b"answer")
        for ended, expected in ((False, [b"answer"]), (True, [])):
            sent.clear()
            if ended:
                flow.end()
            left = [1]
            arrived.receive_nowait = lambda left=left: b"answer" if left and left.pop() else None
            with monkeypatch.context() as patch:
                patch.setattr(flow, "_flow", arrived)
                flow._deliver()
            assert sent == expected
        await remote.aclose()
        nursery.cancel_scope.cancel()


async def test_stopping_ends_the_flows(nursery: trio.Nursery) -> None:
    scene = await Scene.start(nursery)
    program = scene.program()
    await program.send(b"request")
    flow = await scene.accept()
    assert await flow.receive() == b"request"
    scene.stop.set()
    with pytest.raises(trio.EndOfChannel):
        await flow.receive()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("with_streams", [True, False])
async def test_the_port_of_streams_and_datagrams_is_the_same(nursery: trio.Nursery, with_streams: bool) -> None:
    session, _ = await session_pair(nursery, config=SessionConfig(features=Feature.DATAGRAMS))
    client = FakeClient(session)
    address = DatagramAddress("127.0.0.1", 0, with_streams)
    bound: list[tuple[str, int]] = await nursery.start(partial(run_forward, client, [address]))
    assert len(bound) == 1 + with_streams
    assert len(set(bound)) == 1
    host, port = bound[0]
    names = (f"{host}:{port}",) if with_streams else ()
    assert client.listening == (*names, f"{host}:{port}/udp")
    assert [event for event in client.published if isinstance(event, ForwardOpenToOthers)] == []
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says to which address a datagram was sent")
@pytest.mark.parametrize(("host", "used"), [("0.0.0.0", ["127.0.0.1", "127.0.0.9"]), ("::", ["::1"])])
async def test_at_a_wildcard_address_an_answer_comes_from_where_the_request_was_sent(
    nursery: trio.Nursery, host: str, used: list[str]
) -> None:
    """A program with one socket that sends to two addresses has two flows."""
    scene = await Scene.start(nursery, host)
    (event,) = [one for one in scene.client.published if isinstance(one, ForwardOpenToOthers)]
    assert event.addresses
    port = scene.bound[1]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        program = trio.socket.from_stdlib_socket(sock)
        flows = []
        for address in used:
            await program.sendto(address.encode(), (address, port))
            flows.append(await scene.accept())
            assert await flows[-1].receive() == address.encode()
        for flow, address in zip(flows, used, strict=True):
            await flow.send(b"answer")
            data, source = await program.recvfrom(100)
            assert (data, source[:2]) == (b"answer", (address, port))
    nursery.cancel_scope.cancel()


async def test_a_system_that_does_not_say_where_a_request_was_sent_needs_one_address(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridrelay._wildcard_datagrams.sys", SimpleNamespace(platform="darwin"))
    session, _ = await session_pair(nursery)
    with pytest.raises(ConfigurationError, match="does not say to which address"):
        await run_forward(FakeClient(session), [DatagramAddress("0.0.0.0", 0)])
    nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken(nursery: trio.Nursery) -> None:
    session, _ = await session_pair(nursery)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="cannot receive datagrams at"):
            await run_forward(FakeClient(session), [DatagramAddress("127.0.0.1", taken.getsockname()[1])])
    nursery.cancel_scope.cancel()


async def test_a_connector_without_datagrams(nursery: trio.Nursery) -> None:
    session, _ = await session_pair(nursery)
    client = FakeClient(session)
    with pytest.raises(StreamRefused) as caught:
        await client.open_flow()
    assert caught.value.reason is Reason.KIND_NOT_OFFERED
    nursery.cancel_scope.cancel()
