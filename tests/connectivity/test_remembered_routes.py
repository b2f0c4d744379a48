"""Which routes a link remembers: none that has failed, and one for each network."""

from __future__ import annotations

import attrs
import pytest
import trio.testing

from hybridrelay.abc import Dialer, Transport
from hybridrelay.connectivity import NoRouteWorks
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.protocol import control

from .conftest import FakeNetwork

HOME, TRAIN = ("192.0.2.7",), ("198.51.100.9",)
NATIVE, WEB = (9350, 5671, 9352), (443, 80)


@attrs.define
class Machine:
    """A link, on a machine that changes its network."""

    link: RelayLink
    network: FakeNetwork
    #: Identifies the network that the machine is in.
    key: tuple[object, ...] = HOME

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


@pytest.fixture
def machine(
    network: FakeNetwork,
    transports: dict[str, Transport],
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:
    link = RelayLink(
        network.endpoint,
        control.PeerRole.CLIENT,
        instance=new_instance(),
        dialer=Dialer(network.dial),
        transports=transports,
    )
    made = Machine(link, network)
    monkeypatch.setattr("hybridrelay.connectivity.link.network_key", lambda: made.key)
    return made


async def test_a_route_that_has_failed_is_not_used_again_without_probing(machine: Machine) -> None:
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


async def test_a_route_that_has_failed_may_be_chosen_again_if_a_probe_passes(machine: Machine) -> None:
    machine.serve(*NATIVE)
    assert await machine.choose() == ("tcp", True)
    machine.link.forget()
    assert await machine.choose() == ("tcp", True)


async def test_the_route_of_each_network_is_remembered(machine: Machine) -> None:
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
    machine: Machine, ports: tuple[int, ...], route: str, *, is_probed: bool
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
