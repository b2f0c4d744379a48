"""The management API of a relay: what administrators see and change, over HTTP.

`operations.Operations` is a table. Router, validation, authorization, the audit log and ``/openapi.json`` come from
its rows, so that nothing is served, checked or documented anywhere else. `service.serve_management` serves it on a
Unix socket in the relay's state directory. docs/management.md is for users.

Of the modules, these decide and touch no I/O: `callers`, `values`, `operations`, `problems`, `openapi`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .client import ManagementClient as ManagementClient
    from .client import connect_to_relay_on as connect_to_relay_on
    from .service import serve_management as serve_management
    from .status import RelayStatus as RelayStatus
    from .status import read_status as read_status

_HOMES = {
    "client": ("ManagementClient", "connect_to_relay_on"),
    "service": ("serve_management",),
    "status": ("RelayStatus", "read_status"),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
