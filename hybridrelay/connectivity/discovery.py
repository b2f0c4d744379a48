"""Finding the installed transports, and the routes and ports that they offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Protocol

import attrs

from .._value import Value
from ..abc import Port, Purpose, Route, Transport
from ..errors import ConfigurationError
from ..events.connectivity import TransportUnusable
from ..events.plain_log import plainly_logged_events

GROUP = "hybridrelay.transports"
#: The mode that allows every route with `Route.automatic`; any other mode is the name of a transport.
AUTO = "auto"


class EntryPoint(Protocol):
    """The part of `importlib.metadata.EntryPoint` that is used here; tests have their own implementation."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    def load(self) -> object: ...


@attrs.frozen
class BrokenTransport(Value):
    """An entry point that does not lead to a usable transport."""

    name: str
    #: The object that the entry point names: ``package:attribute``.
    value: str
    #: What is wrong with it, as text for people.
    problem: str


@attrs.frozen
class Candidate(Value):
    """A route that can be tried, with the transport that implements it."""

    route: Route
    transport: Transport


def publish_broken(broken: BrokenTransport) -> None:
    """Publish an event that only the log receives. This is the default of `discover`."""
    event = TransportUnusable(transport=broken.name, entry_point=broken.value, detail=broken.problem)
    plainly_logged_events().publish(event)


def discover(
    points: Iterable[EntryPoint] | None = None, *, on_broken: Callable[[BrokenTransport], None] = publish_broken
) -> Mapping[str, Transport]:
    """Load every installed transport, by name.

    A transport that cannot be used is passed to `on_broken` and left out, so that a broken third-party package does
    not affect the others.

    Args:
        points: the entry points to look at; None means those that are installed.
        on_broken: called with each entry point that is left out.
    """
    found: dict[str, Transport] = {}
    # Sorted, so that if two packages have a transport with the same name, the same one is used on every machine.
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: (p.name, p.value)):
        try:
            # Loading runs third-party code, which may raise anything.
            transport = point.load()
        except Exception as error:  # noqa: BLE001
            on_broken(BrokenTransport(point.name, point.value, f"{type(error).__name__}: {error}"))
            continue
        problem = _problem_of(transport, found)
        if problem is not None:
            on_broken(BrokenTransport(point.name, point.value, problem))
            continue
        assert isinstance(transport, Transport)
        found[transport.name] = transport
    return MappingProxyType(found)


def _problem_of(transport: object, found: Mapping[str, Transport]) -> str | None:
    if not isinstance(transport, Transport):
        return f"{type(transport).__name__} is not an instance of hybridrelay.abc.Transport"
    name = getattr(transport, "name", None)
    routes = getattr(transport, "routes", None)
    if not isinstance(name, str) or not name or name == AUTO:
        return "it has no usable name"
    if name in found:
        return f"there is another transport called {name}"
    if not isinstance(routes, tuple) or not routes or not all(isinstance(route, Route) for route in routes):
        return "it offers no routes"
    return _port_conflict(transport, found.values())


def _port_conflict(transport: Transport, others: Iterable[Transport]) -> str | None:
    """Return why a transport's ports conflict with those of the others, or None. Each port belongs to one
    transport."""
    ports: dict[str, Port] = {}
    for route in transport.routes:
        for port in route.ports:
            if ports.setdefault(port.name, port) != port:
                return f"it defines port {port.name} in two ways"
    for other in others:
        for name in ports.keys() & _ports_of(other).keys():
            return (
                f"port {name} belongs to the transport {other.name}; a port serves one transport, so rename this one"
            )
    return None


def _ports_of(transport: Transport) -> dict[str, Port]:
    return {port.name: port for route in transport.routes for port in route.ports}


def transports_by_port(transports: Mapping[str, Transport]) -> Mapping[str, Transport]:
    """Return the transport that serves each port of a relay, by the port's name.

    Raises:
        ConfigurationError: two of them have a port of the same name. This cannot happen with the result of
            `discover`.
    """
    owners: dict[str, Transport] = {}
    for transport in transports.values():
        if (problem := _port_conflict(transport, owners.values())) is not None:
            raise ConfigurationError(
                f"the transport {transport.name} cannot be used: {problem}", remedy="leave one of the two out"
            )
        owners |= dict.fromkeys(_ports_of(transport), transport)
    return MappingProxyType(owners)


def all_ports(transports: Mapping[str, Transport]) -> Mapping[str, Port]:
    """Every network port of these transports, by name: the ports on which the relay can be configured to listen."""
    return MappingProxyType({name: port for name, port in _sorted_ports(transports).items() if not port.local})


def local_ports(transports: Mapping[str, Transport]) -> Mapping[str, Port]:
    """Every Unix socket of these transports, by name. The relay opens them in its state directory."""
    return MappingProxyType({name: port for name, port in _sorted_ports(transports).items() if port.local})


def _sorted_ports(transports: Mapping[str, Transport]) -> dict[str, Port]:
    ports = {name: port for transport in transports.values() for name, port in _ports_of(transport).items()}
    return dict(sorted(ports.items()))


def purposes_by_port(transports: Mapping[str, Transport]) -> Mapping[str, frozenset[Purpose]]:
    """Return the purposes that channels may have on each port, by the port's name.

    They are those for which the routes use the port. Where data channels are accepted, control channels are, too, so
    that a thorough check of the port can do a TLS handshake with the relay.
    """
    purposes: dict[str, set[Purpose]] = {}
    for transport in transports.values():
        for route in transport.routes:
            for purpose in Purpose:
                accepted = {purpose, Purpose.CONTROL} if purpose is Purpose.DATA else {purpose}
                purposes.setdefault(route.port_for(purpose).name, set()).update(accepted)
    return MappingProxyType({name: frozenset(found) for name, found in purposes.items()})


def candidates(transports: Mapping[str, Transport], mode: str = AUTO) -> tuple[Candidate, ...]:
    """Return the routes that `mode` allows, best first.

    Raises:
        ConfigurationError: `mode` is neither `AUTO` nor the name of a transport, or no transport is installed.
    """
    if mode != AUTO and mode not in transports:
        known = ", ".join([AUTO, *sorted(transports)])
        raise ConfigurationError(f"unknown mode {mode!r}", remedy=f"use one of: {known}")
    chosen = [
        Candidate(route, transport)
        for transport in transports.values()
        for route in transport.routes
        if mode == transport.name or (mode == AUTO and route.automatic)
    ]
    if not chosen:
        raise ConfigurationError(
            "no transport is installed", remedy="install hybridrelay again; its transports are part of it"
        )
    return tuple(sorted(chosen, key=lambda candidate: (candidate.route.rank, candidate.route.name)))
