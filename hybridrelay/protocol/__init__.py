"""The sans-IO session protocol. ``SPEC.md`` in this directory defines the wire format; the code follows its order.

Nothing in this package uses a socket, a clock or randomness: times and random values are arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .config import CONTROL_CONFIG as CONTROL_CONFIG
    from .config import SessionConfig as SessionConfig
    from .errors import LocalProtocolError as LocalProtocolError
    from .errors import ProtocolError as ProtocolError
    from .errors import RemoteProtocolError as RemoteProtocolError
    from .features import Feature as Feature
    from .features import Kind as Kind
    from .metadata import Metadata as Metadata
    from .metadata import MetadataEntry as MetadataEntry
    from .reasons import Reason as Reason
    from .session import SessionCore as SessionCore
    from .table import SessionRole as SessionRole
    from .windows import Budget as Budget

_HOMES = {
    "config": ("CONTROL_CONFIG", "SessionConfig"),
    "errors": ("LocalProtocolError", "ProtocolError", "RemoteProtocolError"),
    "features": ("Feature", "Kind"),
    "metadata": ("Metadata", "MetadataEntry"),
    "reasons": ("Reason",),
    "session": ("SessionCore",),
    "table": ("SessionRole",),
    "windows": ("Budget",),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
