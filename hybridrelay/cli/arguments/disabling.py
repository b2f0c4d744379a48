"""The arguments of ``hybridrelay connections disable`` and ``hybridrelay connections enable``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from .options import add_name, add_relay

__all__ = ["DISABLE", "ENABLE"]

_DISABLE = """\
Disable a hybrid connection, without deleting anything. Within a second, a running relay ends its registrations, the
control channels that are used for nothing else, and its sessions, as if all keys had been revoked. Until the hybrid
connection is enabled again, everything is refused with the reason 'connection-disabled'.

Connectors and clients do not end. They keep trying, and work again a few seconds after 'connections enable'.
Connections of applications break, unless the hybrid connection is enabled within about 25 seconds.

If the hybrid connection has several relays, disable it at each of them.
"""
_ENABLE = """\
Enable a hybrid connection that was disabled. Connectors and clients that still run are back within a few seconds.
"""


def _add_arguments(parser: Parser) -> None:
    add_name(parser)
    add_relay(parser)


DISABLE = Command(
    "disable",
    "refuse everything for a hybrid connection, and end what uses it",
    _DISABLE,
    "example:\n  hybridrelay connections disable orders --state /var/lib/hybridrelay\n",
    _add_arguments,
    run="disabling:run_disable",
)
ENABLE = Command(
    "enable",
    "enable a hybrid connection that was disabled",
    _ENABLE,
    "example:\n  hybridrelay connections enable orders --state /var/lib/hybridrelay\n",
    _add_arguments,
    run="disabling:run_enable",
)
