"""The systems under test, and those with which they are compared."""

from __future__ import annotations

from ..model import Skipped
from .base import Deployment as Deployment
from .base import Line as Line
from .base import Server as Server
from .base import System as System
from .ours import NATIVE, WS, WSS
from .peers import Chisel, Frp, Rathole, Wstunnel
from .plain import Direct, Haproxy, Splice
from .ssh import SSH, SSH_AES128

#: The systems in the order of the tables.
SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        Direct(),
        Haproxy(),
        Splice(),
        SSH,
        SSH_AES128,
        NATIVE,
        WS,
        WSS,
        Chisel(),
        Frp(),
        Rathole(),
        Wstunnel(),
    )
}
#: The other tunnels, which encrypt as well.
PEERS = ("ssh", "ssh-aes128", "chisel", "frp", "rathole", "wstunnel")
OURS = tuple(system.name for system in (NATIVE, WS, WSS))


def choose(names: list[str] | None) -> tuple[list[System], list[Skipped]]:
    """Return the systems that can be measured on this machine, and those that cannot, with the reasons.

    Args:
        names: the systems to choose from; None for all.
    """
    chosen, skipped = [], []
    for system in SYSTEMS.values():
        if names is None or system.name in names:
            reason = system.missing()
            if reason is None:
                chosen.append(system)
            else:
                skipped.append(Skipped(system.name, reason, system.remedy))
    return chosen, skipped
