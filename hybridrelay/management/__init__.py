"""The management API of a relay: what administrators see and change, over HTTP.

`operations.Operations` is a table. Router, validation, authorization, the audit log and ``/openapi.json`` come from
its rows, so that nothing is served, checked or documented anywhere else. `service.serve_management` serves it on a
Unix socket in the relay's state directory and, with a `ManagementTcp`, over TCP. `gate` finds out who sends a
request. `web` is the dashboard: pages over the same operations. docs/management.md is for users.

Modules that decide do no I/O, such as `callers`, `operations` and `parameters`. A contract in ``pyproject.toml``
lists them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .addresses import Address as Address
    from .addresses import LocalAddress as LocalAddress
    from .addresses import UrlAddress as UrlAddress
    from .api_registry import ApiRegistry as ApiRegistry
    from .blocking import BlockingClient as BlockingClient
    from .blocking import blocking_client as blocking_client
    from .callers import Caller as Caller
    from .callers import Scope as Scope
    from .client import ManagementClient as ManagementClient
    from .condition import LastReload as LastReload
    from .plugins import Authenticator as Authenticator
    from .plugins import Credentials as Credentials
    from .service import serve_management as serve_management
    from .status import RelayStatus as RelayStatus
    from .status import read_status as read_status
    from .tcp import ManagementTcp as ManagementTcp
    from .tcp_options import TcpOptions as TcpOptions

_HOMES = {
    "addresses": ("Address", "LocalAddress", "UrlAddress"),
    "api_registry": ("ApiRegistry",),
    "blocking": ("BlockingClient", "blocking_client"),
    "callers": ("Caller", "Scope"),
    "client": ("ManagementClient",),
    "condition": ("LastReload",),
    "plugins": ("Authenticator", "Credentials"),
    "service": ("serve_management",),
    "status": ("RelayStatus", "read_status"),
    "tcp": ("ManagementTcp",),
    "tcp_options": ("TcpOptions",),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
