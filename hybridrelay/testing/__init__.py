"""Tools for tests of transports and of programs that embed hybridrelay: sessions and transports without a network."""

from .memory import MemoryListener as MemoryListener
from .memory import MemoryNetwork as MemoryNetwork
from .memory import MemoryTransport as MemoryTransport
from .middlebox import Middlebox as Middlebox
from .middlebox import open_middlebox as open_middlebox
from .middlebox import tcp_pair as tcp_pair
from .sessions import session_pair as session_pair
from .transport import check_transport as check_transport
from .transport import open_pair as open_pair
from .transport import transport_checks as transport_checks
