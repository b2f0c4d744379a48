"""A connection string of an application, for tests that do not connect."""

from __future__ import annotations

from hybridrelay.security import ConnectionString, Endpoint, HostPorts, Secret
from hybridrelay.security.targets import PortSet

STRING = ConnectionString(
    (Endpoint("relay.example"),),
    "application",
    Secret("key"),
    "db",
    local_name=HostPorts("sql01", PortSet(((21, 22),))),
)
