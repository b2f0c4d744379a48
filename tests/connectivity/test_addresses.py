"""A name with several addresses of which only one belongs to a relay: it is found, and tried first afterwards."""

from __future__ import annotations

import contextlib
import json
import socket
import weakref
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Purpose, Transport
from hybridrelay.connectivity import (
    Candidate,
    FailureKind,
    NoRouteWorks,
    Outcome,
    Prober,
    ProxyDial,
    ProxySettings,
    RelayEndpoint,
    candidates,
    discover,
    open_channel,
    open_control_stream,
)
from hybridrelay.connectivity.addresses import MAX_ADDRESSES, AddressBook, first_answer, resolve
from hybridrelay.errors import RelayIdentityError, RelayUnreachable, RendezvousError
from hybridrelay.protocol.reasons import Reason

from ..leaks import no_garbage_collector
from ..resolving import FixedResolver
from ..waiting import patience
from .conftest import Certificates, make_server, run_server, serve_badly

RELAY, OTHER = "127.0.0.1", "127.0.0.2"
NAME = "relay.example.com"
TCP = candidates(discover(), "tcp")[0]
#: What an address that is not a relay's does.
NO_RELAY = ["stalled", "closed", "reset", "http", "garbage", "refused"]


#: Behaviours by address to the port on which they are served.
ServeAt = Callable[[dict[str, str]], Awaitable[int]]


@pytest.fixture
async def serve_at(nursery: trio.Nursery, certificates: Certificates) -> ServeAt:
    """Start servers with one behaviour at each address, all on one port; gives the port."""

    async def start(behaviours: dict[str, str]) -> int:
        port = 0
        for address, behaviour in behaviours.items():
            listeners = await trio.open_tcp_listeners(port, host=address)
            port = listeners[0].socket.getsockname()[1]
            if behaviour == "refused":
                await trio.aclose_forcefully(listeners[0])
                continue
            handler = partial(run_server, make_server(behaviour, certificates))
            nursery.start_soon(partial(trio.serve_listeners, handler, listeners))
        return port

    return start


def endpoint(port: int, certificates: Certificates) -> RelayEndpoint:
    return RelayEndpoint(NAME, dict.fromkeys(("probe", "control", "data"), port), (certificates.pin,))


@pytest.mark.parametrize("behaviour", [*NO_RELAY, "wrong-pin", "altered"])
async def test_the_prober_finds_the_address_that_is_a_relay(
    behaviour: str, serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    port = await serve_at({RELAY: "right", OTHER: behaviour})
    relay = endpoint(port, certificates)
    decision = await Prober(relay, mode="tcp").choose()
    assert relay.addresses.in_order([OTHER, RELAY]) == [RELAY, OTHER]
    probe, control, _ = decision.report.attempts
    assert control.reached == RELAY
    if behaviour != "wrong-pin":  # it passes for a relay until it has to prove that it is one
        assert probe.reached == RELAY
    assert f"{NAME}:{port} ({RELAY})" in decision.report.as_table()
    assert json.loads(decision.report.as_json())["attempts"][1]["reached"] == RELAY
    report = await Prober(endpoint(port, certificates), mode="tcp").survey()
    assert report.chosen == "tcp"
    nursery.cancel_scope.cancel()


async def test_where_no_address_is_a_relay_the_report_names_the_most_telling(
    serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, "127.0.0.3", RELAY))
    port = await serve_at({RELAY: "refused", OTHER: "closed", "127.0.0.3": "http"})
    with pytest.raises(NoRouteWorks) as caught:
        await Prober(endpoint(port, certificates), mode="tcp").choose()
    probe = caught.value.report.attempts[0]
    assert probe.outcome is Outcome.FAIL
    assert probe.failure is not None
    assert (probe.failure.kind, probe.reached) == (FailureKind.NOT_A_RELAY, "127.0.0.3")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("behaviour", [*NO_RELAY, "wrong-pin"])
async def test_a_control_channel_goes_on_to_the_next_address(
    behaviour: str, serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    relay = endpoint(await serve_at({RELAY: "right", OTHER: behaviour}), certificates)
    with trio.fail_after(30):
        stream = await open_control_stream(relay, TCP)
    assert relay.addresses.answered == RELAY
    await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def test_the_wrong_certificate_is_reported_if_no_address_has_the_right_one(
    serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    relay = endpoint(await serve_at({RELAY: "wrong-pin", OTHER: "closed"}), certificates)
    with pytest.raises(RelayIdentityError):
        await open_control_stream(relay, TCP)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("behaviour", [one for one in NO_RELAY if one != "stalled"])
async def test_a_data_channel_goes_on_to_the_next_address_with_its_ticket(
    behaviour: str, serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    relay = endpoint(await serve_at({RELAY: "right", OTHER: behaviour}), certificates)
    stream = await open_channel(relay, TCP, Purpose.DATA, ticket=b"t" * 32)
    assert await stream.receive_some() == b"t" * 32
    await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def test_a_relay_that_says_no_is_an_answer(
    serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    """A ticket is good for one use: it must not be shown at the next address."""
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    relay = endpoint(await serve_at({RELAY: "right", OTHER: "right"}), certificates)
    with pytest.raises(RendezvousError) as caught:
        await open_channel(relay, TCP, Purpose.DATA, ticket=bytes(32))
    assert caught.value.reason is Reason.TICKET_UNKNOWN
    assert relay.addresses.answered == OTHER
    relay = endpoint(await serve_at({RELAY: "right", OTHER: "busy"}), certificates)
    with pytest.raises(RelayUnreachable) as busy:
        await open_channel(relay, TCP, Purpose.CONTROL)
    assert busy.value.reason is Reason.BUSY
    nursery.cancel_scope.cancel()


async def test_what_answered_the_probe_is_dialed_first(
    serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    """Silence on a data channel may mean that the peer has not come yet: a silent address must not be tried first."""
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    relay = endpoint(await serve_at({RELAY: "right", OTHER: "stalled"}), certificates)
    await Prober(relay, mode="tcp").choose()
    with trio.fail_after(patience(5)):
        stream = await open_channel(relay, TCP, Purpose.DATA, ticket=b"t" * 32)
    await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def test_a_data_channel_that_was_silent_for_so_long_is_not_tried_elsewhere(
    serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ticket has expired by then, and another address could only answer that the ticket is unknown."""
    monkeypatch.setattr("hybridrelay.connectivity.channel.RENDEZVOUS_SECONDS", 0.2)
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    relay = endpoint(await serve_at({RELAY: "right", OTHER: "stalled"}), certificates)
    with pytest.raises(RelayUnreachable, match=OTHER):
        await open_channel(relay, TCP, Purpose.DATA, ticket=b"t" * 32)
    assert relay.addresses.answered is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("purpose", [Purpose.DATA, Purpose.CONTROL])
async def test_a_ticket_is_never_at_two_addresses_at_a_time(
    purpose: Purpose,
    serve_at: ServeAt,
    certificates: Certificates,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A relay may take a while to answer on a data channel, which waits for its peer. Other channels have no ticket,
    and the next address is tried in parallel."""
    monkeypatch.setattr("hybridrelay.connectivity.channel.NEXT_ADDRESS_SECONDS", 0.0)
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    port = await serve_at({OTHER: "refused"})  # a free port
    tried = {OTHER: trio.Event(), RELAY: trio.Event()}
    may_answer = trio.Event()

    async def slow(stream: trio.abc.HalfCloseableStream) -> None:
        tried[OTHER].set()
        await may_answer.wait()
        await make_server("right", certificates)(stream)

    async def quick(stream: trio.abc.HalfCloseableStream) -> None:
        tried[RELAY].set()
        await make_server("right", certificates)(stream)

    for address, server in ((OTHER, slow), (RELAY, quick)):
        listeners = await trio.open_tcp_listeners(port, host=address)
        nursery.start_soon(partial(trio.serve_listeners, partial(run_server, server), listeners))
    relay = endpoint(port, certificates)
    opened: list[trio.abc.Stream] = []

    async def open_it() -> None:
        ticket = b"t" * 32 if purpose is Purpose.DATA else b""
        opened.append(await open_channel(relay, TCP, purpose, ticket=ticket))

    async with trio.open_nursery() as opening:
        opening.start_soon(open_it)
        await tried[OTHER].wait()
        if purpose is Purpose.DATA:
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert not tried[RELAY].is_set()
        else:
            await tried[RELAY].wait()
        may_answer.set()
    assert relay.addresses.answered == (OTHER if purpose is Purpose.DATA else RELAY)
    await trio.aclose_forcefully(opened[0])
    nursery.cancel_scope.cancel()


class SilentAtOther(Transport):
    """A transport whose own handshake gets no answer at one address."""

    name, routes = TCP.transport.name, TCP.transport.routes

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        connection = await TCP.transport.connect(address, dialer)
        assert connection.kernel_socket is not None
        if connection.kernel_socket.getpeername()[0] == OTHER:
            try:
                with trio.fail_after(0.1):
                    await connection.stream.receive_some()
            finally:
                await trio.aclose_forcefully(connection.stream)
        return connection

    async def listen(self, binding: Binding) -> Listener:
        raise NotImplementedError


async def test_a_data_channel_whose_transport_got_no_answer_is_tried_elsewhere(
    serve_at: ServeAt, certificates: Certificates, nursery: trio.Nursery
) -> None:
    """Its ticket was not sent, and is still valid."""
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    relay = endpoint(await serve_at({RELAY: "right", OTHER: "right"}), certificates)
    candidate = Candidate(TCP.route, SilentAtOther())
    stream = await open_channel(relay, candidate, Purpose.DATA, ticket=b"t" * 32)
    assert await stream.receive_some() == b"t" * 32
    assert relay.addresses.answered == RELAY
    await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("behaviour", ["stalled", "closed", "reset", "garbage", "refused"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxys_name_may_have_several_addresses_too(
    scheme: str, behaviour: str, certificates: Certificates, nursery: trio.Nursery, serve_at: ServeAt
) -> None:
    async def proxy(stream: trio.abc.HalfCloseableStream) -> None:
        if scheme == "http":
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhello")
        else:
            await stream.receive_some()
            await stream.send_all(b"\x05\x00")
            await stream.receive_some()
            await stream.send_all(b"\x05\x00\x00\x01" + bytes(6) + b"hello")
        await trio.sleep_forever()

    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    port = await serve_at({OTHER: behaviour})
    listeners = await trio.open_tcp_listeners(port, host=RELAY)
    nursery.start_soon(partial(trio.serve_listeners, partial(run_server, proxy), listeners))
    dial = ProxyDial(ProxySettings.explicit(f"{scheme}://proxy.example.com:{port}"))
    for seconds in (10, 1.5):  # the second time the right one comes first
        with trio.fail_after(patience(seconds)):
            stream = await dial(NAME, 443)
        assert await stream.receive_some() == b"hello"
        await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def test_a_proxys_refusal_is_an_answer(nursery: trio.Nursery) -> None:
    asked: list[str] = []

    async def refuse(address: str, stream: trio.abc.HalfCloseableStream) -> None:
        asked.append(address)
        await serve_badly(stream, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    port = 0
    for address in (OTHER, RELAY):
        listeners = await trio.open_tcp_listeners(port, host=address)
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(partial(trio.serve_listeners, partial(run_server, partial(refuse, address)), listeners))
    trio.socket.set_custom_hostname_resolver(FixedResolver(OTHER, RELAY))
    with pytest.raises(OSError, match="refuses port 443"):
        await ProxyDial(ProxySettings.explicit(f"http://proxy.example.com:{port}"))(NAME, 443)
    assert asked == [OTHER]
    nursery.cancel_scope.cancel()


# --- the parts


async def test_addresses_of_a_name() -> None:
    trio.socket.set_custom_hostname_resolver(
        FixedResolver("10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2")
    )
    assert await resolve(NAME, 443) == ["10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2"]
    trio.socket.set_custom_hostname_resolver(FixedResolver(*(f"10.0.0.{n}" for n in range(200))))
    assert len(await resolve(NAME, 443)) == MAX_ADDRESSES
    assert await resolve("192.0.2.7", 443) == ["192.0.2.7"]
    with pytest.raises(socket.gaierror):
        await resolve("a..b", 443)


def test_the_address_that_answered_last_comes_first() -> None:
    book = AddressBook()
    assert book.in_order(["a", "b", "c"]) == ["a", "b", "c"]
    book.succeeded("c")
    book.succeeded(None)
    assert book.in_order(["a", "b", "c"]) == ["c", "a", "b"]
    assert book.in_order(["a", "b"]) == ["a", "b"]
    book.failed("a")
    assert book.in_order(["a", "c"]) == ["c", "a"]
    book.failed("c")
    assert book.in_order(["a", "c"]) == ["a", "c"]


def test_what_has_proved_that_it_is_the_relay_comes_before_what_only_answered() -> None:
    book = AddressBook()
    book.succeeded("b", proved=True)
    book.succeeded("c")
    assert book.in_order(["a", "b", "c"]) == ["b", "c", "a"]
    book.failed("b")
    assert book.in_order(["a", "b", "c"]) == ["c", "a", "b"]


async def test_of_two_answers_one_is_discarded(autojump_clock: trio.testing.MockClock) -> None:
    discarded: list[str] = []

    both = trio.Event()

    async def attempt(address: str) -> str:
        if address == "b":
            both.set()  # the other is awake now, and can no longer be cancelled
        else:
            await both.wait()
        return address

    async def discard(answer: str) -> None:
        discarded.append(answer)

    answer = await first_answer(["a", "b"], attempt, no_answer=(OSError,), stagger_seconds=2, discard=discard)
    assert (answer, discarded) == ("b", ["a"])


async def test_an_error_other_than_silence_ends_the_race(autojump_clock: trio.testing.MockClock) -> None:
    tried: list[str] = []

    async def attempt(address: str) -> str:
        tried.append(address)
        raise ValueError if address == "b" else OSError

    async def discard(answer: str) -> None:
        raise AssertionError

    with pytest.raises(ValueError):
        await first_answer(["a", "b", "c"], attempt, no_answer=(OSError,), stagger_seconds=9, discard=discard)
    assert tried == ["a", "b"]
    with pytest.raises(ExceptionGroup) as caught:
        await first_answer(["a", "c"], attempt, no_answer=(OSError,), stagger_seconds=9, discard=discard)
    assert len(caught.value.exceptions) == 2


@pytest.mark.parametrize("how", ["none answers", "one refuses", "one answers", "cancelled"])
async def test_what_failed_attempts_held_is_freed_with_their_exceptions(how: str) -> None:
    """Such as the TLS stream of a handshake that failed. The garbage collector is not needed."""
    freed: list[weakref.ref[trio.Event]] = []

    async def attempt(address: str) -> str:
        stream = trio.Event()
        freed.append(weakref.ref(stream))
        if address == "last":
            if how == "one answers":
                return address
            if how == "one refuses":
                raise RuntimeError(address)
            if how == "cancelled":
                scope.cancel()
                await trio.sleep_forever()
        raise ValueError(address)

    async def discard(answer: str) -> None:
        raise AssertionError(answer)

    with no_garbage_collector():
        with trio.CancelScope() as scope, contextlib.suppress(ExceptionGroup, RuntimeError):
            await first_answer(
                ["first", "second", "last"], attempt, no_answer=(ValueError,), stagger_seconds=20, discard=discard
            )
        assert [stream() for stream in freed] == [None, None, None]
