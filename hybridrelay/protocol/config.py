"""The configuration and the limits of a session. The comment at each limit says what it protects."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from .._defaults import RESUME_DEADLINE
from .._value import Value
from .features import NO_FEATURES, Feature
from .metadata import MAX_METADATA_TYPE

KIB = 1024
MIB = 1024 * KIB

#: The credit that every stream has from OPEN on (bytes): enough for a database handshake or a small request without
#: waiting for OPENED, and small enough that thousands of idle streams fit in the budget. Part of the wire format.
BASE_WINDOW = 16 * KIB

#: The largest payload of a DATA frame. Larger frames would delay control frames and other streams on slow links;
#: smaller ones would cost throughput. In measurements, this and other multiplexers worked best with 16 to 64 KiB.
#: Part of the wire format.
MAX_DATA = 64 * KIB

#: The longest datagram (bytes): the most that UDP carries over IPv4. Part of the wire format.
MAX_DATAGRAM = 65_507

#: The largest payload of a DATA frame while several streams have something to send (in turn, round robin).
FAIR_DATA = 16 * KIB

#: The greatest id of a stream. Part of the wire format.
MAX_STREAM_ID = 0xFFFF_FFFF

#: An ACK is sent at the latest after this many bytes or frames were received, or after this time (seconds). This
#: bounds what the sender must keep in order to write it again when the session resumes. ACKs are not more frequent
#: because each wakes three processes: with one for every 256 KiB, bulk transfers took a tenth more processor time.
ACK_AFTER_BYTES = 1024 * KIB
ACK_AFTER_FRAMES = 64
ACK_AFTER_SECONDS = 0.2

#: The memory that a kept frame is assumed to take in addition to its payload (bytes), so that the number of tiny
#: frames is bounded, too.
FRAME_OVERHEAD = 128

#: When a peer attaches, it states how many counted frames it has written. That number may exceed the number of frames
#: received by at most this much. Until the missing frames have arrived again, frames for streams that have ended are
#: tolerated. This is four times the number of the smallest frames that fit into `SessionConfig.max_unacknowledged`.
MAX_WRITTEN_AGAIN = 1 << 20

#: The most PINGs that may wait for an answer. A peer that sends more is an attacker.
MAX_PONGS_OWED = 64

#: The most frames of unknown types in a row, without a frame of a known type in between. Because there is a PING
#: every ten seconds, a peer may send about a hundred such frames a second, but cannot keep this side busy with them
#: alone.
MAX_IGNORED_IN_A_ROW = 1024


def _as_frozenset(types: Iterable[int]) -> frozenset[int]:
    return frozenset(types)


def _check_metadata_types(instance: object, attribute: object, types: frozenset[int]) -> None:
    if not all(1 <= one <= MAX_METADATA_TYPE for one in types):
        raise ValueError(f"a type of metadata is a number from 1 to {MAX_METADATA_TYPE:#x}")


@attrs.frozen(kw_only=True)
class SessionConfig(Value):
    """Settings of one session. The defaults are what relay, connector and client use on data channels."""

    #: Streams that the peer may have open at a time. Bounds tables and tasks; 10,000 idle streams must fit.
    max_streams: int = attrs.field(default=12_000, validator=attrs.validators.ge(0))
    #: How many refused streams may wait for the acknowledgement of their refusal, beyond `max_streams`. Each is kept
    #: until then.
    max_refused_streams: int = attrs.field(default=256, validator=attrs.validators.ge(1))
    #: The greatest id of a stream that this side opens. After that, the session goes away (accepts no more streams),
    #: and its owner opens another one. Only tests set a smaller value.
    last_stream_id: int = attrs.field(default=MAX_STREAM_ID, validator=attrs.validators.in_(range(MAX_STREAM_ID + 1)))
    #: How many streams of the peer may wait for the application to accept or refuse them. Beyond that, OPEN is
    #: refused with LIMIT.
    max_backlog: int = attrs.field(default=1024, validator=attrs.validators.ge(1))
    #: What this side offers beyond the base protocol; a feature is used if the peer also offers it.
    features: Feature = NO_FEATURES
    #: The types of metadata that this side's application understands. A stream whose metadata has a critical entry of
    #: another type is refused.
    metadata_types: frozenset[int] = attrs.field(
        default=frozenset(), converter=_as_frozenset, validator=_check_metadata_types
    )
    #: The receive window after OPENED (bytes).
    initial_window: int = attrs.field(default=256 * KIB, validator=attrs.validators.ge(BASE_WINDOW))
    #: The largest receive window (bytes): 16 MiB allow 107 MiB/s with a round trip of 150 ms.
    max_window: int = attrs.field(default=16 * MIB, validator=attrs.validators.ge(BASE_WINDOW))
    #: How many bytes of one stream may be queued before its sender has to wait.
    send_queue: int = attrs.field(default=128 * KIB, validator=attrs.validators.ge(1))
    #: The size of all frames that were written and not acknowledged (bytes, with `FRAME_OVERHEAD` for each). At the
    #: limit, DATA and OPEN wait. Twice the largest window, so that one fast stream never waits for acknowledgements.
    #: With less than twice `ACK_AFTER_BYTES`, a fast sender would sometimes wait for the peer's ACK timer.
    max_unacknowledged: int = attrs.field(default=32 * MIB, validator=attrs.validators.ge(ACK_AFTER_BYTES // 2))
    #: The memory that may be promised to the peer in receive windows (bytes): enough for 12,000 streams with
    #: `BASE_WINDOW`, with some left for larger windows.
    budget: int = attrs.field(default=320 * MIB, validator=attrs.validators.ge(BASE_WINDOW))
    #: A PING is sent at this interval (seconds), however much is sent and received. It keeps the connection in the
    #: tables of middleboxes, which do not forget idle connections within 30 s, and measures the round trip
    #: time from which window sizes are computed.
    ping_interval: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    #: The shortest time in which a silent peer has to answer (seconds). It is longer if the measured round trip time
    #: is long.
    ping_timeout: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    #: How long a session waits for a new channel after it has lost one (seconds). 0: it ends at once.
    resume_deadline: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    #: Whether this is the session of a control channel. A relay has many of these, and they carry little, so reads
    #: from the channel are small: large reads cost less for each byte, but more memory in every layer below.
    #: Statistics count such sessions separately.
    is_control: bool = False


#: For control channels, and for peers that have not authenticated themselves: few streams, little memory.
CONTROL_CONFIG = SessionConfig(
    max_streams=1,
    max_refused_streams=4,
    max_backlog=1,
    initial_window=BASE_WINDOW,
    max_window=BASE_WINDOW,
    send_queue=16 * KIB,  # a peer that reads nothing can make the relay keep this much
    is_control=True,
    max_unacknowledged=MIB,
    budget=128 * KIB,
)

#: For the side that dials a control channel. With this send queue, messages that are sent at the same time leave in
#: frames of at most 8 KiB. The relay accepts no longer frames before it has accepted a token.
DIALED_CONTROL_CONFIG = attrs.evolve(CONTROL_CONFIG, send_queue=KIB // 2)

#: For data channels: a session that has lost its channel waits for another one. 25 seconds are longer than the
#: restart of a relay and most short network failures, and short enough that applications learn within 30 seconds that
#: their connector was killed.
DATA_CONFIG = SessionConfig(resume_deadline=RESUME_DEADLINE)
