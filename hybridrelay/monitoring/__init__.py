"""Status, metrics and health of a connector or forward, over HTTP on this machine.

`server.serve_status` serves a source (`sources`): a connector, or the clients of a forward.
`operations.OPERATIONS` is the table of operations, of the same kind as that of the management API.

Modules without I/O: `metrics`, `problems`, `readiness`, `values`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .server import StatusAddress as StatusAddress
    from .server import serve_status as serve_status
    from .sources import ClientsSource as ClientsSource
    from .sources import ConnectorSource as ConnectorSource
    from .sources import StatusSource as StatusSource

_HOMES = {
    "server": ("StatusAddress", "serve_status"),
    "sources": ("ClientsSource", "ConnectorSource", "StatusSource"),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
