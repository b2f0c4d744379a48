"""Self-hosted Hybrid Connections: reach one service inside a private network that opens no inbound port.

The names that programs with Trio or threads need are here; `hybridrelay.aio` is for asyncio, and `hybridrelay.abc`
and `hybridrelay.testing` are for authors of transports. Names are loaded when they are first used, so that the
sans-I/O protocol can be imported without any code that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import load_when_used
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._own_address import EveryPort as EveryPort
    from .client import Client as Client
    from .client import ClientConfig as ClientConfig
    from .client import forward_in_thread as forward_in_thread
    from .client import open_client as open_client
    from .client import open_socket as open_socket
    from .client import run_forward as run_forward
    from .connectivity import ProxyDial as ProxyDial
    from .connectivity import ProxySettings as ProxySettings
    from .connector import Connector as Connector
    from .connector import ConnectorConfig as ConnectorConfig
    from .connector import InstanceFile as InstanceFile
    from .connector import Policy as Policy
    from .connector import PolicyFile as PolicyFile
    from .connector import run_connector as run_connector
    from .errors import AuthorizationError as AuthorizationError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ConnectionStringError as ConnectionStringError
    from .errors import HybridRelayError as HybridRelayError
    from .errors import PeerIdentityError as PeerIdentityError
    from .errors import RelayIdentityError as RelayIdentityError
    from .errors import RelayUnreachable as RelayUnreachable
    from .errors import RendezvousError as RendezvousError
    from .errors import SessionError as SessionError
    from .errors import StateError as StateError
    from .errors import StreamRefused as StreamRefused
    from .errors import StreamReset as StreamReset
    from .errors import TransportError as TransportError
    from .mux import MuxStream as MuxStream
    from .protocol.reasons import Reason as Reason
    from .relay import Binding as Binding
    from .relay import Relay as Relay
    from .relay import RelayConfig as RelayConfig
    from .relay import RelayInfo as RelayInfo
    from .relay import run_relay as run_relay
    from .security import ConnectionString as ConnectionString
    from .security import StringUpdate as StringUpdate
    from .security import load_connection_string as load_connection_string
    from .security import parse_connection_string_untrusted as parse_connection_string_untrusted

_HOMES = {
    "_own_address": ("EveryPort",),
    "client": ("Client", "ClientConfig", "forward_in_thread", "open_client", "open_socket", "run_forward"),
    "connectivity": ("ProxyDial", "ProxySettings"),
    "connector": ("Connector", "ConnectorConfig", "InstanceFile", "Policy", "PolicyFile", "run_connector"),
    "errors": (
        "AuthorizationError",
        "ConfigurationError",
        "ConnectionStringError",
        "HybridRelayError",
        "PeerIdentityError",
        "RelayIdentityError",
        "RelayUnreachable",
        "RendezvousError",
        "SessionError",
        "StateError",
        "StreamRefused",
        "StreamReset",
        "TransportError",
    ),
    "mux": ("MuxStream",),
    "protocol.reasons": ("Reason",),
    "relay": ("Binding", "Relay", "RelayConfig", "RelayInfo", "run_relay"),
    "security": ("ConnectionString", "StringUpdate", "load_connection_string", "parse_connection_string_untrusted"),
}

__all__ = ["__version__"]
__all__ += [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
