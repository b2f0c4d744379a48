"""A name with several addresses, some of which never answer: a staggered race, and all of them at the same time.

Where time matters, the clock stands still unless the test moves it: what is reached does not wait for anything.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connector.targets import TargetDenied, TargetError, open_target
from hybridrelay.policy.decision import ALLOWED, Decision
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort
from hybridrelay.streams import connecting
from hybridrelay.streams.connecting import MAX_PARALLEL, STAGGER_SECONDS, open_tcp
from hybridrelay.streams.name_lookups import AddressInfo

from ..limited_places import Limited
from ..resolving import FixedResolver
from ..silent import silent_listener

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs many loopback addresses, and full backlogs")

DENIED = Decision(Reason.DENIED_BY_POLICY, "a rule")


class Sockets(trio.abc.SocketFactory):
    """Makes real sockets, and remembers them."""

    def __init__(self) -> None:
        self.made: list[trio.socket.SocketType] = []

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> trio.socket.SocketType:  # noqa: A002
        self.made.append(trio.socket.from_stdlib_socket(socket.socket(family, type, proto)))
        return self.made[-1]

    @property
    def open(self) -> list[trio.socket.SocketType]:
        return [one for one in self.made if one.fileno() >= 0]


@attrs.define
class Net:
    """Addresses that only this test uses, with the same port at all of them."""

    prefix: str
    port: int
    running: contextlib.ExitStack
    resolver: FixedResolver = attrs.field(factory=FixedResolver)
    sockets: Sockets = attrs.field(factory=Sockets)
    #: The addresses to which attempts were begun, in this order, and how many ran at the same time.
    tried: list[str] = attrs.field(factory=list)
    current: int = 0
    most: int = 0

    def address(self, number: int) -> str:
        return f"{self.prefix}.{number}"

    def resolve_to(self, *numbers: int) -> None:
        self.resolver.addresses = tuple(map(self.address, numbers))

    def silent(self, *numbers: int) -> None:
        for number in numbers:
            self.running.enter_context(silent_listener(self.address(number), self.port))

    def live(self, number: int) -> socket.socket:
        listener = self.running.enter_context(socket.create_server((self.address(number), self.port)))
        listener.setblocking(False)
        return listener

    def numbers(self) -> list[int]:
        return [int(address.rpartition(".")[2]) for address in self.tried]


@pytest.fixture
async def net(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    prefix = f"127.{random.randrange(1, 64)}.{random.randrange(256)}"
    with contextlib.ExitStack() as running:
        reserved = running.enter_context(socket.create_server((f"{prefix}.250", 0)))
        net = Net(prefix, reserved.getsockname()[1], running)
        connect = connecting._connect

        async def noted(address: AddressInfo) -> trio.socket.SocketType:
            net.tried.append(address[4][0])
            net.current += 1
            net.most = max(net.most, net.current)
            try:
                return await connect(address)
            finally:
                net.current -= 1

        monkeypatch.setattr(connecting, "_connect", noted)
        trio.socket.set_custom_hostname_resolver(net.resolver)
        trio.socket.set_custom_socket_factory(net.sockets)
        yield net


def peer(stream: trio.SocketStream) -> str:
    return str(stream.socket.getpeername()[0])


async def test_no_address_has_to_wait_for_one_that_does_not_answer(
    net: Net, mock_clock: trio.testing.MockClock
) -> None:
    silent = range(1, MAX_PARALLEL)
    net.silent(*silent)
    net.live(MAX_PARALLEL)
    net.resolve_to(*silent, MAX_PARALLEL)
    async with await open_tcp("db.example", net.port, in_parallel=True) as stream:
        assert peer(stream) == net.address(MAX_PARALLEL)
        assert net.numbers() == [*silent, MAX_PARALLEL]
        assert len(net.sockets.made) == MAX_PARALLEL
        assert mock_clock.current_time() == 0
        assert net.sockets.open == [stream.socket], "the others are closed before this one is used"


async def test_by_default_one_after_the_other_in_the_order_of_the_resolver(
    net: Net, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    net.silent(3, 1)
    net.live(4), net.live(2)
    net.resolve_to(3, 1, 4, 2)
    streams: list[trio.SocketStream] = []

    async def dial() -> None:
        streams.append(await open_target(HostPort("db.example", net.port)))

    nursery.start_soon(dial)
    for expected in ([3], [3, 1]):
        await trio.testing.wait_all_tasks_blocked()
        assert net.numbers() == expected
        mock_clock.jump(STAGGER_SECONDS)
    while not streams:
        await trio.testing.wait_all_tasks_blocked()
    assert peer(streams[0]) == net.address(4)
    assert net.numbers() == [3, 1, 4]
    assert net.sockets.open == [streams[0].socket]
    await trio.aclose_forcefully(streams[0])


async def test_at_most_so_many_at_a_time(net: Net, mock_clock: trio.testing.MockClock) -> None:
    """The further ones wait, in their order, until one has failed: at addresses without a listener, at once."""
    silent, refusing, live = range(1, MAX_PARALLEL), range(100, 104), 120
    net.silent(*silent)
    net.live(live)
    net.resolve_to(*silent, *refusing, live)
    async with await open_tcp("db.example", net.port, in_parallel=True) as stream:
        assert peer(stream) == net.address(live)
    assert net.numbers() == [*silent, *refusing, live]
    assert net.most == MAX_PARALLEL
    assert mock_clock.current_time() == 0
    assert net.sockets.open == []


async def test_one_that_is_too_many_is_not_tried_and_nothing_is_left_behind(net: Net) -> None:
    silent, live = range(1, MAX_PARALLEL + 1), 120
    net.silent(*silent)
    listener = net.live(live)
    net.resolve_to(*silent, live)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: open_target(HostPort("db.example", net.port), in_parallel=True))
        await trio.testing.wait_all_tasks_blocked()
        assert net.numbers() == [*silent]
        assert len(net.sockets.open) == MAX_PARALLEL
        nursery.cancel_scope.cancel()
    assert net.sockets.open == []
    with pytest.raises(BlockingIOError):
        listener.accept()


async def test_at_the_deadline_nothing_is_left_behind(
    net: Net, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    net.silent(1, 2, 3)
    net.resolve_to(1, 2, 3)
    failures: list[TargetError] = []

    async def dial() -> None:
        try:
            await open_target(HostPort("db.example", net.port), in_parallel=True)
        except TargetError as exc:
            failures.append(exc)

    nursery.start_soon(dial)
    await trio.testing.wait_all_tasks_blocked()
    assert len(net.sockets.open) == 3
    mock_clock.jump(10)
    await trio.testing.wait_all_tasks_blocked()
    assert [one.reason for one in failures] == [Reason.TARGET_TIMEOUT]
    assert net.sockets.open == []


async def test_the_failure_at_each_address_is_reported(net: Net) -> None:
    net.resolve_to(1, 2, 3)
    with pytest.raises(OSError, match="all attempts") as caught:
        await open_tcp("db.example", net.port, in_parallel=True)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [type(error) for error in caught.value.__cause__.exceptions] == [ConnectionRefusedError] * 3
    assert net.sockets.open == []


@pytest.mark.parametrize("in_parallel", [False, True])
async def test_each_address_is_decided_about(net: Net, in_parallel: bool) -> None:
    forbidden = net.live(1)
    net.live(2)
    net.resolve_to(1, 2)
    target, decided = HostPort("db.example", net.port), []

    def permit(address: str) -> Decision:
        decided.append(address)
        return DENIED if address == net.address(1) else ALLOWED

    async with await open_target(target, permit=permit, in_parallel=in_parallel) as stream:
        assert peer(stream) == net.address(2)
    assert decided == [net.address(1), net.address(2)]
    assert net.numbers() == [2]
    with pytest.raises(TargetDenied):
        await open_target(target, permit=lambda _: DENIED, in_parallel=in_parallel)
    assert net.numbers() == [2]
    with pytest.raises(BlockingIOError):
        forbidden.accept()


@pytest.mark.parametrize("in_parallel", [False, True])
async def test_the_name_is_resolved_again_each_time(net: Net, in_parallel: bool) -> None:
    for number in (1, 2, 3):
        net.live(number)
        net.resolve_to(number, 200)  # nothing listens at the second address
        async with await open_target(HostPort("db.example", net.port), in_parallel=in_parallel) as stream:
            assert peer(stream) == net.address(number)
    assert net.resolver.asked == [b"db.example"] * 3


@pytest.mark.parametrize("in_parallel", [True, False], ids=["all at the same time", "staggered"])
@pytest.mark.parametrize("left", [0, 1, 3, 20])
async def test_additional_attempts_take_places_and_give_them_back(
    net: Net, autojump_clock: trio.testing.MockClock, in_parallel: bool, left: int
) -> None:
    """Silent addresses, of which one attempt each lasts until the deadline."""
    net.resolve_to(1, 2, 3, 4, 5, 6)
    net.silent(1, 2, 3, 4, 5, 6)
    spare = Limited(left)
    with trio.move_on_after(30) as scope:
        await open_tcp("db.example", net.port, in_parallel=in_parallel, spare=spare)
    assert scope.cancelled_caught
    assert net.most == min(6, 1 + left)
    assert spare.taken == 0
    assert not net.sockets.open


@pytest.mark.parametrize("in_parallel", [True, False], ids=["all at the same time", "staggered"])
async def test_without_additional_places_addresses_are_tried_one_after_the_other(net: Net, in_parallel: bool) -> None:
    """Nothing listens at the first ones, and the place of each is free again for the next."""
    net.resolve_to(1, 2, 3, 4)
    net.live(4)
    spare = Limited(0)
    async with await open_tcp("db.example", net.port, in_parallel=in_parallel, spare=spare) as stream:
        assert peer(stream) == net.address(4)
    assert net.numbers() == [1, 2, 3, 4]
    assert net.most == 1


@pytest.mark.parametrize("in_parallel", [True, False], ids=["all at the same time", "staggered"])
async def test_a_connection_that_is_made_needs_no_additional_place(
    net: Net, autojump_clock: trio.testing.MockClock, in_parallel: bool
) -> None:
    net.resolve_to(1, 2)
    net.silent(1)
    net.live(2)
    spare = Limited(1)
    async with await open_tcp("db.example", net.port, in_parallel=in_parallel, spare=spare) as stream:
        assert peer(stream) == net.address(2)
        assert spare.taken == 0
