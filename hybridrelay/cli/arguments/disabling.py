"""The arguments of ``hybridrelay connections disable`` and ``hybridrelay connections enable``."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from .options import add_name, add_relay

__all__ = ["DISABLE", "ENABLE"]

_DISABLE = """\
Disable a hybrid connection, without deleting anything. Within a second, a running relay ends its registrations and
sessions, and the control channels that are used only for it. Until the hybrid connection is enabled again, the relay
refuses all requests for it with the reason 'connection-disabled'.

Connectors and clients continue to run. They keep trying, and work again a few seconds after 'connections enable'. The
connections of applications break, unless the hybrid connection is enabled within about 25 seconds.

If the hybrid connection has several relays, disable it at each of them.
"""
_ENABLE = """\
Enable a hybrid connection that was disabled. Connectors and clients that are still running work again within a few
seconds. If it was disabled at several relays, enable it at each of them.
"""


def _add_arguments(parser: Parser) -> None:
    add_name(parser)
    add_relay(parser)


DISABLE = Command(
    "disable",
    "refuse all requests for a hybrid connection, and end its sessions",
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
