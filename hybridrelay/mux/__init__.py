"""The Trio shell of the session protocol: `Session`, its streams, and offers of streams."""

from ..protocol import Feature as Feature
from ..protocol import Kind as Kind
from ..protocol import Metadata as Metadata
from ..protocol import MetadataEntry as MetadataEntry
from ..protocol import SessionRole as SessionRole
from ..protocol.config import CONTROL_CONFIG as CONTROL_CONFIG
from ..protocol.config import DATA_CONFIG as DATA_CONFIG
from ..protocol.config import DIALED_CONTROL_CONFIG as DIALED_CONTROL_CONFIG
from ..protocol.config import SessionConfig as SessionConfig
from ..protocol.sending import Account as Account
from ..protocol.windows import Budget as Budget
from .bridge import BridgeProgress as BridgeProgress
from .bridge import bridge as bridge
from .bridging import Bridged as Bridged
from .bridging import Party as Party
from .early import EarlySession as EarlySession
from .greeting import receive_hello as receive_hello
from .greeting import refuse_session as refuse_session
from .memory_use import MemoryUse as MemoryUse
from .offer import Offer as Offer
from .session import GREETING_TIMEOUT as GREETING_TIMEOUT
from .session import Session as Session
from .stream import MuxStream as MuxStream
from .stream_end import StreamEnd as StreamEnd
from .stream_end import StreamProgress as StreamProgress
