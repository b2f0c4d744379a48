"""The ways in which an application can see hosts under their names and ports, and which one is used. Pure.

* ``host``: the application has a mount namespace of its own, with its own hosts file, and the network of the machine.
  Hosts that have names get loopback addresses. If this is not enough, because a host is an IP address, or only root
  may listen on its port, the application's calls of connect(2) are redirected in addition.
* ``intercept``: no namespace. The application's calls of connect(2) are redirected, those to DNS servers as well.
* ``private``: the application has a network namespace of its own, in which there is nothing but what is published.

By default, the first of these that this machine allows is used, in this order: ``private`` comes last because it
takes all other networks away from the application.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from ..._value import Value
from ...errors import ConfigurationError
from ...security import HostTarget
from ...security.names import ip_address, normal_host
from .addresses import each_of

__all__ = ["AUTOMATIC", "Abilities", "Network", "NetworkSetup", "Refusal", "choose_setups"]


class Network(enum.Enum):
    """The values of ``--network``, which says what the application sees of the network."""

    HOST = "host"
    PRIVATE = "private"
    INTERCEPT = "intercept"


#: The order in which they are tried.
AUTOMATIC = (Network.HOST, Network.INTERCEPT, Network.PRIVATE)


@attrs.frozen
class Refusal(Value):
    """A step that this machine does not allow."""

    #: What was attempted, such as ``unshare``.
    step: str
    #: The error.
    text: str
    #: What to change.
    remedy: str

    def __str__(self) -> str:
        return f"{self.step}: {self.text}"


@attrs.frozen
class Abilities(Value):
    """What this machine allows an ordinary user. None means that it is allowed."""

    #: A user namespace with a mount namespace, and mounts in it.
    mounts: Refusal | None = None
    #: A network namespace in addition.
    network: Refusal | None = None
    #: Notifications about system calls, and copies of the application's sockets.
    interception: Refusal | None = None
    #: The lowest port that an ordinary user may open.
    first_port: int = 1024


@attrs.frozen
class NetworkSetup(Value):
    """What has to be set up for an application with one `Network`."""

    network: Network
    #: Whether the application has a mount namespace, with its own hosts file.
    has_mounts: bool
    #: Whether it has a network namespace.
    has_network: bool
    #: Whether its calls of connect(2) are redirected.
    intercepts: bool

    @property
    def redirects_names(self) -> bool:
        """Whether the application's DNS queries are redirected, because it has no hosts file of its own."""
        return self.intercepts and not self.has_mounts


def needs_interception(published: Sequence[HostTarget], first_port: int) -> bool:
    """Return whether loopback addresses in the network of the machine are not enough for these hosts."""
    return any(
        any(one.port < first_port for one in each_of(name)) or ip_address(normal_host(name.host)) is not None
        for name in published
    )


def refusal_of(network: Network, published: Sequence[HostTarget], abilities: Abilities) -> Refusal | None:
    """Return why this machine does not allow a `Network` for these hosts, or None if it does."""
    match network:
        case Network.PRIVATE:
            return abilities.mounts or abilities.network
        case Network.INTERCEPT:
            return abilities.interception
        case Network.HOST:
            if abilities.mounts is None and needs_interception(published, abilities.first_port):
                return abilities.interception
            return abilities.mounts


def setup_of(network: Network, published: Sequence[HostTarget], first_port: int) -> NetworkSetup:
    """Return what has to be set up for these hosts."""
    match network:
        case Network.PRIVATE:
            return NetworkSetup(network, has_mounts=True, has_network=True, intercepts=False)
        case Network.INTERCEPT:
            return NetworkSetup(network, has_mounts=False, has_network=False, intercepts=True)
        case Network.HOST:
            intercepts = needs_interception(published, first_port)
            return NetworkSetup(network, has_mounts=True, has_network=False, intercepts=intercepts)


def choose_setups(
    wanted: Network | None, published: Sequence[HostTarget], abilities: Abilities
) -> Sequence[NetworkSetup]:
    """Return the setups that may be tried for the application, in order: the first that succeeds is used. There is
    at least one.

    Args:
        wanted: the value of ``--network``; None means all that this machine allows.
        published: the hosts that the application is to see.
        abilities: what this machine allows.

    Raises:
        ConfigurationError: this machine does not allow it. The message says what was refused, and what to change.
    """
    setups, refusals = [], []
    for network in AUTOMATIC if wanted is None else (wanted,):
        refusal = refusal_of(network, published, abilities)
        if refusal is None:
            setups.append(setup_of(network, published, abilities.first_port))
        else:
            refusals.append(refusal)
    if setups:
        return setups
    first = refusals[0]
    what = "any value of --network" if wanted is None else f"--network {wanted.value}"
    raise ConfigurationError(
        f"this machine does not allow {what} ({first})",
        remedy=f"{first.remedy}; 'hybridrelay run --check' explains every value of --network",
    )
