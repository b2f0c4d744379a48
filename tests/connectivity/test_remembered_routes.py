"""Which routes a link remembers: none that has failed, and one for each network."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer, Port, Purpose, Route, Transport
from hybridrelay.connectivity import NoRouteWorks
from hybridrelay.connectivity.doubts import MAX_SECONDS
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.events import Event, EventStream, RouteRejected
from hybridrelay.protocol import control

from .conftest import CONTROL, PROBE, FakeNetwork, FakeTransport

HOME, TRAIN = ("192.0.2.7",), ("198.51.100.9",)
NATIVE, WEB = (9350, 5671, 9352), (443, 80)


@attrs.define
class Machine:
    """A link, on a machine that changes its network."""

    link: RelayLink
    network: FakeNetwork
    #: Identifies the network that the machine is in.
    key: tuple[object, ...] = HOME
    #: Which routes were rejected.
    published: list[Event] = attrs.field(factory=list)

    def move_to(self, key: tuple[object, ...]) -> None:
        self.key = key
        self.link.forget(network_changed=True)

    def serve(self, *ports: int) -> None:
        """Have the relay answer on these ports only."""
        self.network.behaviours = dict.fromkeys(ports, "right")

    async def choose(self) -> tuple[str, bool]:
        """The name of the route that is chosen now, and whether it was probed."""
        before = len(self.network.dialed)
        candidate = await self.link.choose()
        return candidate.route.name, len(self.network.dialed) > before


def make_machine(network: FakeNetwork, transports: dict[str, Transport], monkeypatch: pytest.MonkeyPatch) -> Machine:
    published = list[Event]()
    link = RelayLink(
        network.endpoint,
        control.PeerRole.CLIENT,
        instance=new_instance(),
        dialer=Dialer(network.dial),
        transports=transports,
        events=EventStream(published.append),
    )
    made = Machine(link, network, published=published)
    monkeypatch.setattr("hybridrelay.connectivity.link.network_key", lambda: made.key)
    return made


@pytest.fixture
def machine(network: FakeNetwork, transports: dict[str, Transport], monkeypatch: pytest.MonkeyPatch) -> Machine:
    return make_machine(network, transports, monkeypatch)


async def test_a_route_that_has_failed_is_not_used_again_without_probing(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    machine.serve(*NATIVE, *WEB)
    assert await machine.choose() == ("tcp", True)
    assert await machine.choose() == ("tcp", False)
    machine.serve(*WEB)
    machine.link.forget()
    assert await machine.choose() == ("wss", True)
    assert await machine.choose() == ("wss", False)
    machine.serve()
    machine.link.forget()
    with pytest.raises(NoRouteWorks):
        await machine.choose()
    assert not machine.link.remembers


async def test_a_route_that_has_failed_may_be_chosen_again_if_a_probe_passes(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    machine.serve(*NATIVE)
    assert await machine.choose() == ("tcp", True)
    machine.link.forget()
    assert await machine.choose() == ("tcp", True)


async def test_the_route_of_each_network_is_remembered(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    machine.serve(*NATIVE, *WEB)
    assert await machine.choose() == ("tcp", True)
    machine.move_to(TRAIN)
    machine.serve(*WEB)
    assert await machine.choose() == ("wss", True)
    machine.move_to(HOME)
    machine.serve(*NATIVE, *WEB)
    assert await machine.choose() == ("tcp", False)
    machine.move_to(TRAIN)
    assert await machine.choose() == ("wss", False)


@pytest.mark.parametrize(("ports", "route", "is_probed"), [(NATIVE, "tcp", True), (WEB, "wss", False)])
async def test_a_failure_makes_every_network_with_this_route_probe_again(
    machine: Machine, autojump_clock: trio.testing.MockClock, ports: tuple[int, ...], route: str, *, is_probed: bool
) -> None:
    """The relay may no longer serve the ports of the route, in whatever network that is noticed."""
    machine.serve(*ports)
    assert await machine.choose() == (route, True)
    machine.move_to(TRAIN)
    machine.serve(*NATIVE)
    assert await machine.choose() == ("tcp", True)
    machine.link.forget()
    machine.move_to(HOME)
    machine.serve(*ports)
    assert await machine.choose() == (route, is_probed)


async def test_a_route_that_a_thorough_check_has_rejected_stays_rejected(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    """A firewall cuts TLS on the data port, and lets probes pass."""
    machine.serve(*NATIVE, *WEB)
    machine.network.behaviours[9352] = "stalled-tls"
    assert await machine.choose() == ("tcp", True), "the probe passes"
    machine.link.doubt(await machine.link.choose())
    assert await machine.choose() == ("wss", True)
    for _ in range(3):
        machine.link.forget()
        assert await machine.choose() == ("wss", True)
    machine.move_to(TRAIN)
    assert await machine.choose() == ("wss", True)
    (event,) = machine.published
    assert isinstance(event, RouteRejected)
    assert (event.route, event.used) == ("tcp", "wss")
    machine.network.behaviours[9352] = "right"
    machine.link.forget()
    assert await machine.choose() == ("tcp", True)
    machine.network.behaviours[9352] = "stalled-tls"
    machine.link.forget()
    assert await machine.choose() == ("tcp", True), "checked as usual again"


async def test_two_routes_that_were_rejected(
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = Route("second", 15, Port("second-data", 9353), {Purpose.PROBE: PROBE, Purpose.CONTROL: CONTROL})
    machine = make_machine(network, transports | {"second": FakeTransport("second", second)}, monkeypatch)
    machine.serve(*NATIVE, 9353, *WEB)
    for route, port in (("tcp", 9352), ("second", 9353)):
        candidate = await machine.link.choose()
        assert candidate.route.name == route
        network.behaviours[port] = "stalled-tls"
        machine.link.doubt(candidate)
        await trio.sleep(MAX_SECONDS)
    assert await machine.choose() == ("wss", True)
    network.behaviours[9353] = "right"
    for _ in range(2):
        machine.link.forget()
        assert await machine.choose() == ("second", True), "the first one is still checked thoroughly"


async def test_a_doubt_without_a_reason_changes_nothing(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    """The other end of the data channel was the reason."""
    machine.serve(*NATIVE, *WEB)
    candidate = await machine.link.choose()
    machine.link.doubt(candidate)
    assert await machine.choose() == ("tcp", True)
    assert machine.published == []
    machine.link.doubt(candidate)
    assert await machine.choose() == ("tcp", False), "not again within so short a time"
    await trio.sleep(MAX_SECONDS)
    machine.serve(*WEB)
    machine.link.forget()
    other = await machine.link.choose()
    assert other.route.name == "wss"
    machine.link.doubt(candidate)
    assert await machine.choose() == ("wss", False), "the route is no longer used"
