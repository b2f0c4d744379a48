"""How a route is described: its ports, and the proxy without its password."""

from __future__ import annotations

import pytest

from hybridrelay.abc import Dialer, Purpose
from hybridrelay.connectivity import ProxyDial, ProxySettings
from hybridrelay.connectivity.discovery import candidates, discover
from hybridrelay.connectivity.endpoint import RelayEndpoint
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.connectivity.proxies.settings import Proxy
from hybridrelay.protocol import control

PROXY = Proxy.parse_untrusted("http://somebody:secret@proxy.example:3128")
ENDPOINT = RelayEndpoint("relay.example.com", {"data": 19352})


@pytest.mark.parametrize(
    ("route", "purpose", "proxy", "expected"),
    [
        ("tcp", Purpose.CONTROL, None, ("tcp", 5671, "")),
        ("tcp", Purpose.DATA, None, ("tcp", 19352, "")),
        ("wss", Purpose.DATA, PROXY, ("websocket", 443, "http://proxy.example:3128")),
        ("ws", Purpose.CONTROL, PROXY, ("websocket", 80, "http://proxy.example:3128")),
    ],
)
def test_the_snapshot_of_a_route_says_how_it_is_dialed(
    route: str, purpose: Purpose, proxy: Proxy | None, expected: tuple[str, int, str]
) -> None:
    dialer = Dialer(ProxyDial(ProxySettings(proxy)))
    link = RelayLink(ENDPOINT, control.PeerRole.CONNECTOR, instance=new_instance(), dialer=dialer)
    (candidate,) = (one for one in candidates(discover()) if one.route.name == route)
    described = link.describe(candidate, purpose)
    assert described.name == route
    assert (described.transport, described.port, described.proxy) == expected
    assert "secret" not in repr(described)
    assert link.transports == ("tcp", "websocket")


def test_a_route_without_a_port() -> None:
    link = RelayLink(ENDPOINT, control.PeerRole.CLIENT, instance=new_instance(), mode="exec")
    (candidate,) = candidates(discover(), "exec")
    described = link.describe(candidate, Purpose.CONTROL)
    assert (described.name, described.transport, described.port, described.proxy) == ("exec", "exec", 0, "")
