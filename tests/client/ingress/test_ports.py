"""How a forward listens, and how it stops."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from functools import partial

import pytest
import trio

from hybridrelay._datagram_address import DatagramAddress
from hybridrelay._listening import bind_datagrams, open_listeners
from hybridrelay._name_ports import NamePorts
from hybridrelay._own_address import EveryPort
from hybridrelay.client import Client, PortService, open_port, run_forward
from hybridrelay.client.ingress import ports
from hybridrelay.client.requests import StreamRequests
from hybridrelay.connectivity.counters import EndpointCounters
from hybridrelay.errors import ConfigurationError, DeniedByPolicy, RelayUnreachable
from hybridrelay.events import ConnectionsCutOff, Event, EventStream, ForwardOpenToOthers, OwnPortNotOpened
from hybridrelay.mux import MuxStream, Session
from hybridrelay.security import ConnectionString, HostPort

from ..strings import STRING


class FakeClient(Client):
    """A client without a session: every stream waits for one."""

    listening: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.published: list[Event] = []
        self.requests = StreamRequests(lambda: STRING, EndpointCounters())
        self.is_waiting = trio.Event()

    def set_listening(self, addresses: Sequence[str], *, left_out: Sequence[str] = ()) -> None:
        self.listening, self.left_out = tuple(addresses), tuple(left_out)

    @property
    def connection(self) -> str:
        return "db"

    @property
    def connection_string(self) -> ConnectionString:
        return STRING

    @property
    def events(self) -> EventStream:
        return EventStream(self.published.append)

    @property
    def is_connected(self) -> bool:
        return False

    @property
    def open_stream_count(self) -> int:
        return 0

    @property
    def open_patience(self) -> float:
        return 60.0

    async def connect(self, *, patience: float | None = None) -> Session:
        await trio.lowlevel.checkpoint()
        raise RelayUnreachable("down")

    def request_stream_nowait(self, *, port: int | None = None) -> MuxStream | None:
        return None

    async def request_stream(
        self, *, port: int | None = None, wait_opened: bool = True, patience: float | None = None
    ) -> MuxStream:
        self.is_waiting.set()
        await trio.sleep_forever()
        raise AssertionError("unreachable")


@pytest.mark.parametrize("count", [0, 1])
async def test_connections_that_are_cut_off_are_counted(nursery: trio.Nursery, count: int) -> None:
    client, stop, stopped = FakeClient(), trio.Event(), trio.Event()

    async def forward(*, task_status: trio.TaskStatus[list[tuple[str, int]]]) -> None:
        await run_forward(client, [("127.0.0.1", 0)], stop=stop, task_status=task_status)
        stopped.set()

    ((host, port),) = await nursery.start(forward)
    for _ in range(count):
        nursery.start_soon(partial(_connect, host, port))
        await client.is_waiting.wait()
    stop.set()
    await stopped.wait()
    cut_off = [event for event in client.published if isinstance(event, ConnectionsCutOff)]
    assert cut_off == [ConnectionsCutOff(connection="db", connections=1)] * count
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("grace", [0.0, 60.0])
async def test_one_that_is_stopped_before_it_has_started_ends(nursery: trio.Nursery, grace: float) -> None:
    client = FakeClient()
    port = await open_port(("127.0.0.1", 0), events=client.events)
    service = PortService(client, [port])
    service.stop(grace)
    await nursery.start(service.run)
    await service.has_stopped.wait()
    assert not client.listening
    port.close()
    nursery.cancel_scope.cancel()


async def test_one_whose_addresses_the_policy_denies_has_stopped() -> None:
    """So a task that waits until it has stopped does not wait for ever."""

    class Denying(FakeClient):
        def set_listening(self, addresses: Sequence[str], *, left_out: Sequence[str] = ()) -> None:
            if addresses:
                raise DeniedByPolicy("the address is denied")

    client = Denying()
    port = await open_port(("127.0.0.1", 0), events=client.events)
    service = PortService(client, [port])
    with pytest.raises(DeniedByPolicy):
        await service.run()
    assert service.has_stopped.is_set()
    port.close()


async def test_addresses_that_others_may_reach_are_reported_once(nursery: trio.Nursery) -> None:
    client = FakeClient()
    listen = [("127.0.0.1", 0), ("0.0.0.0", 0), ("0.0.0.0", 0)]
    bound: list[tuple[str, int]] = await nursery.start(partial(run_forward, client, listen))
    events = [event for event in client.published if isinstance(event, ForwardOpenToOthers)]
    addresses = tuple(f"{host}:{port}" for host, port in bound[1:])
    assert events == [ForwardOpenToOthers(connection="db", addresses=addresses)]
    nursery.cancel_scope.cancel()


async def test_an_address_that_cannot_be_listened_on_is_not_reported_as_open() -> None:
    client = FakeClient()
    with pytest.raises(ConfigurationError, match="cannot listen"):  # 192.0.2.1 is not an address of this machine
        await run_forward(client, [("0.0.0.0", 0), ("192.0.2.1", 0)])
    assert not any(isinstance(event, ForwardOpenToOthers) for event in client.published)


async def test_a_connection_that_is_not_admitted_is_reset() -> None:
    """The ports of an application, which are for this application only, are such ports."""
    taken: list[int | None] = []
    asked: list[object] = []

    class Served:
        def take(self, accepted: socket.socket, port: int | None) -> None:
            taken.append(port)
            accepted.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        for admitted in (None, True, False):
            with socket.create_connection(listener.getsockname()) as client:
                client.settimeout(60)
                accepted, peer = listener.accept()

                def admits(peer: tuple[str, int], own: tuple[str, int], admitted: bool | None = admitted) -> bool:
                    asked.append((peer, own, admitted))
                    return bool(admitted)

                ports._take(Served(), None if admitted is None else admits, 1433, accepted, peer)  # type: ignore[arg-type]
                if admitted is False:
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
                    assert asked[-1] == (client.getsockname(), listener.getsockname(), False)
                else:
                    assert client.recv(1) == b""
    assert taken == [1433, 1433]


async def _connect(host: str, port: int) -> None:
    async with await trio.open_tcp_stream(host, port):
        await trio.sleep_forever()


@pytest.mark.parametrize("is_taken", [True, False], ids=["another-program", "not-allowed"])
async def test_a_port_of_a_local_name_that_another_program_has_is_shown_as_left_out(
    is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applications that know only the name reach that program. Otherwise, they reach nothing."""
    published: list[Event] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        host, wanted = other.getsockname()
        if not is_taken:
            listen = open_listeners

            async def refuse(host: str, port: int, *, events: EventStream) -> list[trio.SocketListener]:
                if port:
                    raise PermissionError(errno.EACCES, "not allowed")
                return await listen(host, port, events=events)

            monkeypatch.setattr(ports, "open_listeners", refuse)
        address = NamePorts.every(EveryPort(host), HostPort("db.test", wanted))
        opened = await open_port(address, events=EventStream(published.append))
    (event,) = published
    assert isinstance(event, OwnPortNotOpened)
    assert event.address == f"{host}:{wanted}"
    assert opened.names == (f"{host}:{event.used_port}",)
    assert opened.left_out == ((event.address,) if is_taken else ())
    assert ("reach another program" in event.detail) is is_taken
    opened.close()


@pytest.mark.parametrize("cause", ["cancelled", "refused", "bug"])
async def test_nothing_stays_open_if_not_all_sockets_of_a_port_can_be_opened(
    monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """The first of two UDP sockets is open, and two TCP listeners."""
    opened: list[socket.socket | trio.socket.SocketType] = []

    async def listen(*_args: object, **_options: object) -> list[trio.SocketListener]:
        listeners = [one for _ in range(2) for one in await open_listeners("127.0.0.1", 0, events=EventStream())]
        opened.extend(one.socket for one in listeners)
        return listeners

    async def bind(host: str, port: int) -> list[socket.socket]:
        if len(opened) == 2:
            found = await bind_datagrams(host, 0)
            opened.extend(found)
            return found
        match cause:
            case "cancelled":
                scope.cancel()
                await trio.lowlevel.checkpoint()
            case "bug":
                raise ZeroDivisionError
        raise PermissionError(errno.EACCES, "not allowed")

    monkeypatch.setattr(ports, "_open_tcp_port", listen)
    monkeypatch.setattr(ports, "bind_datagrams", bind)
    with trio.CancelScope() as scope:
        opening = partial(open_port, DatagramAddress("127.0.0.1", 0, with_streams=True), events=EventStream())
        if cause == "cancelled":
            await opening()
        with pytest.raises(ZeroDivisionError if cause == "bug" else ConfigurationError):
            await opening()
    assert scope.cancelled_caught is (cause == "cancelled")
    assert [one.fileno() for one in opened] == [-1] * 3
