"""The limits of the relay, and what each limit protects.

Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import attrs

from .._defaults import RESUME_DEADLINE
from .._value import Value


@attrs.frozen
class RateLimit(Value):
    """A limit on the number of outstanding handshakes; see `edge/handshakes.py`."""

    #: How many may be outstanding at a time.
    burst: int = attrs.field(validator=attrs.validators.ge(1))
    #: How many stop counting as outstanding per second.
    per_second: float = attrs.field(validator=attrs.validators.gt(0))


#: Connections that have not yet presented a token or a ticket. Protects descriptors and memory against anyone who can
#: reach a port. Each costs a descriptor, and 2 KiB of memory until the peer has sent a complete ClientHello and may
#: begin its handshake. Then it costs up to 64 KiB, whatever the peer sends, and 77 KiB in one phase: see
#: `NESTED_HANDSHAKES`. The rate limits below allow strangers to begin at most 728 handshakes before the deadline.
#: Measured with `python -m benchmarks.strangers memory`: Linux, CPython 3.11, OpenSSL 3.0, resident memory of the
#: process, without the kernel's socket buffers. Honest clients leave their slots within a few round trips, so 1024
#: slots are enough for thousands of them per second.
UNAUTHENTICATED_SLOTS = 1024

#: The fraction of those slots that may be in the second TLS handshake of a connection, inside outer TLS, at the same
#: time; another one causes the oldest to be closed. Such a connection costs 77 KiB, of which OpenSSL allocates 61: 16
#: for each layer, and during a handshake 21 for its messages and 4 for each of two buffers. These sizes cannot be
#: configured.
NESTED_HANDSHAKES = 1 / 8

#: The fraction of those slots that may have TLS inside outer TLS, during its handshake or after it; another one
#: causes the oldest to be closed. Such a connection costs up to 64 KiB after its handshakes. With one half, all slots
#: together stay below 64 MiB in any mix of connections: 128 x 77 KiB, 384 x 64 KiB and 512 x 57 KiB are 62.1 MiB.
LAYERED_TLS = 1 / 2

#: The fraction of those slots that one address (IPv6: one /64) may have when all are taken; above it, the address's
#: own oldest connection is closed first. A quarter, because many clients behind one NAT may start at the same time.
UNAUTHENTICATED_SHARE_OF_ADDRESS = 1 / 4

#: The time from accept until a token or ticket is accepted, including the transport's handshakes. Protects the slots
#: against slow-loris attacks; long enough for TCP and TLS over a lossy satellite link.
AUTHENTICATION_DEADLINE_SECONDS = 15.0

#: TLS handshakes (and HTTP requests, if HTTP comes first) of peers that have not authenticated yet; see
#: `edge/handshakes.py`. A stranger's handshake takes about two milliseconds of CPU time in total, so that 40 per
#: second take a twelfth of a core. The burst is for honest peers that are about to authenticate: with a round trip of
#: 100 ms, 128 at a time are 300 per second.
HANDSHAKES_OF_STRANGERS = RateLimit(burst=128, per_second=40.0)
#: An additional limit for addresses from which a peer authenticated recently.
HANDSHAKES_OF_KNOWN = RateLimit(burst=256, per_second=100.0)
#: The limit for one address, known or not. Thousands of clients may be behind one address, but the handshakes of
#: clients that authenticate do not count.
HANDSHAKES_OF_ADDRESS = RateLimit(burst=128, per_second=20.0)
#: Additional limits for all peers that have proved with their first bytes that they have an access key, and for one
#: key. When the limit of a key is used up, its peers still have the limit of their address. Protects CPU time and
#: memory against an attacker who replays an observed proof.
HANDSHAKES_OF_PROVED = RateLimit(burst=256, per_second=100.0)
HANDSHAKES_OF_KEY = RateLimit(burst=64, per_second=10.0)
#: Addresses that are remembered because a peer authenticated from there: about 200 bytes each.
REMEMBERED_ADDRESSES = 4096

#: How long a ticket is valid, and therefore how long the first side waits for the other. Long enough to try another
#: address if the first one does not answer. Short, because a stolen ticket can be used until then.
TICKET_LIFETIME_SECONDS = 30.0

#: How many open rendezvous (those with an unused ticket) one sender key may have. Protects the listeners, which dial
#: for each. Not lower, because many processes share an application key, and all return at the same time after a
#: relay's restart.
OPEN_RENDEZVOUS_PER_SENDER_KEY = 256

#: How many open rendezvous there may be in total. Each costs about 1 KiB, and may have one waiting data channel.
OPEN_RENDEZVOUS = 8192

#: How many rendezvous may exist in total: joined pairs of data channels, and rendezvous that may become pairs. A
#: joined pair costs two descriptors, two tasks and about 25 KiB while it is idle. See `Shares` for relays with fewer
#: descriptors, and `Places` for how they are shared among keys and hybrid connections.
JOINED_PAIRS = 32768

#: How many authorized control channels there may be in total. Each costs a descriptor and about 60 KiB, and some 40
#: KiB more for half a minute if its peer reads nothing. Shared like the pairs.
CONTROL_CHANNELS = 32768

#: Descriptors that are reserved for the ports, the registry and its log, the lock, and connections that are being
#: closed.
RESERVED_DESCRIPTORS = 64

#: How many listeners a hybrid connection may have, unless an administrator has set another limit. A few are enough
#: for redundancy. Protects memory against a leaked listener key, with which an attacker could register one instance
#: after another.
LISTENERS_PER_CONNECTION = 25

#: How many departed instances are remembered for each hybrid connection, so that a client that asks for one learns at
#: once that it is gone, or that it may come back. For a forgotten instance, clients wait for their resume deadline.
DEPARTED_PER_CONNECTION = 256

#: An instance that was registered for this long (seconds) keeps its place among the listeners for `DEPARTED_SECONDS`
#: after it has left. Short, so that a connector gets a place soon after its start. Not zero, because otherwise an
#: attacker with a Listen key could fill the list of remembered instances as fast as it can register.
SENIORITY_SECONDS = 5.0

#: How long a departed instance is remembered. This is longer than a control channel without a peer can stay open, so
#: that an earlier channel of the instance cannot register again, and longer than any usual resume deadline.
DEPARTED_SECONDS = 600.0

#: How many reports about the health of targets a connector may send over one control channel within `HEALTH_SECONDS`
#: (seconds), in addition to as many for each hybrid connection that is registered over it. The channel of a connector
#: that sends more is closed. A connector waits for five seconds between two reports about a hybrid connection, and
#: also sends one with each registration. Protects the event log and its readers; the reports themselves cost little.
HEALTH_REPORTS = 30
HEALTH_SECONDS = 60.0

#: A listener that an administrator has dropped may not register again for this long (seconds). Long enough to see the
#: effect, and to revoke its key. Afterwards the connector returns by itself. Shorter than `DEPARTED_SECONDS`.
DROPPED_SECONDS = 30.0

#: A read that returned no more than this has most likely emptied the socket, so the call that would confirm it is
#: skipped.
SMALL_BURST_BYTES = 16 * 1024

#: How many empty pipes are kept for reuse. Further ones are closed when they are returned.
IDLE_PIPES = 32

#: How many pipes may be borrowed, that is, contain bytes. Only a direction whose receiver does not read keeps one for
#: more than a moment. Beyond this number, buffers are used instead. Protects the descriptors, of which each pipe
#: takes two.
BORROWED_PIPES = 1024

#: How long a stream may take to close gracefully after both directions ended, before it is closed by force.
CLOSE_DEADLINE_SECONDS = 5.0

#: How many requests may be refused on a control channel that has not presented a valid token yet. Honest peers stop
#: at the first refusal, or continue with their next hybrid connection. Protects the store, which is read before a
#: token is refused.
REFUSALS_BEFORE_AUTHORIZED = 8

#: How many control channels may count for one key, which is the key of their first valid token. Each costs about 60
#: KiB and a descriptor. Many processes may share an application key; this protects the relay against somebody who has
#: obtained one.
CONTROL_CHANNELS_PER_KEY = 8192

#: How long a client's control channel counts as in use after a listener has accepted one of its joins. After that, it
#: is among the first to be displaced. A client opens another one when it needs it.
IDLE_CLIENT_SECONDS = 60.0

#: How often expired registrations are ended, and control channels are checked for peers that read nothing (seconds).
#: Connectors renew registrations long before they expire.
SWEEP_SECONDS = 5.0

#: A control channel ends when a message has waited this many sweeps for room in its queue (30 s), or when its peer
#: has read nothing for as long although something is queued. Protects memory: for what the relay sends without being
#: asked, such as offers, there is no other limit. Before something is queued, the peer has left 16 KiB unread, and
#: before a message has to wait, 32 KiB.
UNREAD_SWEEPS = 6

#: How long a control channel may stay open if the relay has refused a registration over it, and nothing else is
#: registered over it. This is longer than a connector waits between two attempts.
REFUSED_CHANNEL_SECONDS = 60.0

#: The place of a pair of data channels becomes established at this age, even if the listener has not reported that
#: the sender has proved its identity: the control channel for the report may have been lost. A connector would have
#: closed the data channel by then if the sender had not proved its identity.
ESTABLISHED_AFTER_SECONDS = 90.0

#: How long the established place of a pair is kept for its holder after one of its data channels broke: as long as
#: the session waits to be resumed. Protects open sessions against other users of the same key that take every place
#: as soon as it is free.
KEPT_AFTER_BREAK_SECONDS = RESUME_DEADLINE

#: The same if both data channels ended without an error. Usually the session has ended, and others should not wait
#: for its place. But something in the path may have closed the channels. Then both sides notice it, and the client
#: asks for another pair at once.
KEPT_AFTER_END_SECONDS = 3.0

#: How long a control channel stays open after the last key that had authorized it was revoked, so that its peer can
#: receive the reason.
REVOKED_CHANNEL_SECONDS = 5.0

#: How often a running relay checks whether another process has changed the store. Changes take effect within a
#: second. A check reads shared memory and takes tens of microseconds.
STORE_POLL_SECONDS = 0.25

#: The maximum size of a relay file. A rule takes about 600 bytes, and there are at most twelve.
RELAY_RECORD_BYTES = 64 * 1024


@attrs.frozen
class Shares(Value):
    """How the descriptors of the process are divided among their uses, so that no use can take all of them.

    At most a quarter of all is for connections that have not authenticated (`unauthenticated_slots`), and
    `RESERVED_DESCRIPTORS` are reserved. The attributes are shares of the *rest*: all but the reserved ones.
    """

    #: How many pairs of data channels there may be, with two descriptors each: half of the rest.
    pairs: int
    #: How many control channels whose peers have authenticated: an eighth of the rest.
    control_channels: int
    #: How many pipes with bytes in them, with two descriptors each: an eighth of the rest.
    pipes: int

    @classmethod
    def of(cls, descriptors: int | None) -> Shares:
        """Divide `descriptors`, the limit on open files (None or negative: no limit is known)."""
        if descriptors is None or descriptors < 0:
            return cls(JOINED_PAIRS, CONTROL_CHANNELS, BORROWED_PIPES)
        shared = max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2)
        return cls(
            max(1, min(JOINED_PAIRS, shared // 4)),
            max(1, min(CONTROL_CHANNELS, shared // 8)),
            max(1, min(BORROWED_PIPES, shared // 16)),
        )


def unauthenticated_slots(descriptors: int | None) -> int:
    """Return the number of slots for a limit on open files (None or negative: no limit is known).

    At most a quarter, so that strangers cannot take the descriptors of peers that have authenticated.
    """
    if descriptors is None or descriptors < 0:
        return UNAUTHENTICATED_SLOTS
    return max(1, min(UNAUTHENTICATED_SLOTS, descriptors // 4))
