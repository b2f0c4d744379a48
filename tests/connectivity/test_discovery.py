"""Transports are found by entry point, and a broken one takes nothing down with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping

import attrs
import pytest

from hybridrelay.abc import Port, Purpose, Route, Transport
from hybridrelay.connectivity import AUTO, BrokenTransport, all_ports, candidates, discover
from hybridrelay.connectivity.discovery import purposes_by_port, transports_by_port
from hybridrelay.errors import ConfigurationError

from .conftest import FakeTransport


@attrs.frozen
class Point:
    """An entry point that gives, or raises, this."""

    name: str
    gives: object

    @property
    def value(self) -> str:
        return f"package_of_{self.name}:transport"

    def load(self) -> object:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


def found(*points: Point) -> tuple[Mapping[str, Transport], list[BrokenTransport]]:
    broken: list[BrokenTransport] = []
    return discover(points, on_broken=broken.append), broken


def test_ours_are_installed() -> None:
    broken: list[BrokenTransport] = []
    transports = discover(on_broken=broken.append)
    assert not broken
    assert {"tcp", "websocket"} <= set(transports)
    numbers = {name: port.default for name, port in all_ports(transports).items()}
    assert numbers.items() >= {"probe": 9350, "control": 5671, "data": 9352, "http": 80, "https": 443}.items()
    ours = [candidate.route.name for candidate in candidates(transports) if candidate.transport.name != "third"]
    assert ours == ["tcp", "wss", "ws"]


def test_by_name_whatever_the_order(transports: dict[str, Transport]) -> None:
    points = [Point(name, transport) for name, transport in transports.items()]
    for order in (points, points[::-1]):
        discovered, broken = found(*order)
        assert discovered == transports
        assert not broken


class NoName:
    name = ""
    routes = ()


@pytest.mark.parametrize(
    ("breakage", "problem"),
    [
        (ImportError("no module named widget"), "ImportError: no module named widget"),
        (ZeroDivisionError(), "ZeroDivisionError: "),
        (None, "NoneType is not an instance of hybridrelay.abc.Transport"),
        (NoName(), "NoName is not an instance of hybridrelay.abc.Transport"),
    ],
)
def test_what_does_not_load_is_reported_and_left_out(
    breakage: object, problem: str, transports: dict[str, Transport]
) -> None:
    discovered, broken = found(Point("aaa", breakage), Point("tcp", transports["tcp"]))
    assert discovered == {"tcp": transports["tcp"]}
    assert broken == [BrokenTransport("aaa", "package_of_aaa:transport", problem)]


PORT = Port("x", 1)
GOOD = Route("x", 5, PORT)


@pytest.mark.parametrize(
    ("name", "routes", "problem"),
    [
        ("", (GOOD,), "no usable name"),
        (None, (GOOD,), "no usable name"),
        (AUTO, (GOOD,), "no usable name"),
        ("tcp", (GOOD,), "another transport called tcp"),
        ("x", (), "no routes"),
        ("x", [GOOD], "no routes"),
        ("x", ("x",), "no routes"),
        ("x", (Route("x", 5, Port("https", 444)),), "port https belongs to the transport websocket"),
        (
            "x",
            (Route("x", 5, Port("https", 443, outer_tls=True)),),
            "port https belongs to the transport websocket",
        ),
        (
            "x",
            (Route("x", 5, PORT, {Purpose.DATA: Port("https", 443)}),),
            "port https belongs to the transport websocket",
        ),
        ("x", (GOOD, Route("y", 6, Port("x", 2))), "it defines port x in two ways"),
    ],
)
def test_what_breaks_the_contract_is_reported_and_left_out(
    name: object, routes: object, problem: str, transports: dict[str, Transport]
) -> None:
    other = FakeTransport("x")
    vars(other).update(name=name, routes=routes)  # whatever its author declared
    points = [Point(transport.name, transport) for transport in transports.values()]
    discovered, (broken,) = found(*points, Point("zzz", other))
    assert discovered == transports
    assert problem in broken.problem


def test_a_port_is_for_what_the_routes_use_it_for(transports: dict[str, Transport]) -> None:
    purposes = purposes_by_port(transports)
    assert purposes["probe"] == {Purpose.PROBE}
    assert purposes["control"] == {Purpose.CONTROL}
    assert purposes["data"] == {Purpose.DATA, Purpose.CONTROL}, "for thorough checks"
    assert purposes["https"] == set(Purpose)


def test_a_port_serves_one_transport(transports: dict[str, Transport]) -> None:
    assert transports_by_port(transports)["https"] is transports["websocket"]
    same = FakeTransport("other", *transports["tcp"].routes)
    with pytest.raises(ConfigurationError, match=r"port \w+ belongs to the transport tcp"):
        transports_by_port({**transports, "other": same})


def test_one_transport_may_use_a_port_for_several_routes(transports: dict[str, Transport]) -> None:
    twice = FakeTransport("x", GOOD, attrs.evolve(GOOD, name="y"))
    discovered, broken = found(Point("x", twice))
    assert discovered == {"x": twice}
    assert not broken


def test_without_a_listener_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert discover([Point("bad", None)]) == {}
    assert "transport=bad entry_point=package_of_bad:transport" in caplog.text


def test_candidates_by_rank_and_mode(transports: dict[str, Transport]) -> None:
    def names(mode: str) -> list[str]:
        return [candidate.route.name for candidate in candidates(transports, mode)]

    assert names(AUTO) == ["tcp", "wss", "ws"]
    assert names("tcp") == ["tcp"]
    assert names("websocket") == ["wss", "ws"]
    for mode in ("", "quic", "wss"):
        with pytest.raises(ConfigurationError) as caught:
            names(mode)
        assert caught.value.remedy == "use one of: auto, tcp, websocket"
    with pytest.raises(ConfigurationError, match="no transport is installed"):
        candidates({})


def test_nothing_found_can_be_changed(transports: dict[str, Transport]) -> None:
    assert not isinstance(discover([]), MutableMapping)
    assert not isinstance(all_ports(transports), MutableMapping)
