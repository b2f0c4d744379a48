"""The sans-IO session protocol. ``SPEC.md`` in this folder defines the wire format; the code follows its order.

Nothing in this package uses a socket, a clock or randomness: times and random values are arguments.
"""

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
