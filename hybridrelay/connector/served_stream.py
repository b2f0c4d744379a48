"""One stream of an application: policy, target, moving the bytes, and exactly one outcome."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

import attrs
import trio

from .._unexpected_failure import unexpected_failure
from .._value import Value
from ..audit.record import NotRecordedError
from ..connectivity import format_address
from ..connectivity.counters import EndpointCounters
from ..events.connector_resources import ShareUsedUp, TargetOutOfResources
from ..events.policy import PolicyRefused
from ..events.stream import EventStream
from ..mux import Bridged, BridgeProgress, Bridges, Offer, RunningBridge
from ..policy import Action, Decision, Policy
from ..protocol.reasons import Reason
from ..security import NamedInstance, StreamTarget, UnixSocket
from ..security.targets import UNIX_PREFIX
from ..streams.sockets import abort_socket
from .flow_bridge import FlowBridge, FlowTotals
from .named_instances import NamedInstances
from .open_streams import OpenStreams
from .outcome import NotConnected, outcome_of
from .proxy_header import proxy_header
from .published import Published
from .recent_ports import RecentPorts
from .recorded import wait_recorded
from .shares import Share, Shares, SpareOf
from .stream_events import Origin, StreamEvents
from .targets import TargetAttempted, TargetDenied, TargetError, open_target

__all__ = ["REPEAT_SECONDS", "Connected", "ServedStream", "Serving", "peer_address"]

#: An event is published for each open stream at this interval (seconds).
REPEAT_SECONDS = 24 * 3600.0
#: What leads to the target: a connection, or the UDP socket of a flow.
Connected: TypeAlias = trio.SocketStream | socket.socket


@attrs.frozen
class Serving(Value):
    """What is the same for all streams of a connector."""

    #: The streams that have not ended.
    streams: OpenStreams[ServedStream]
    #: Returns the policy that is in force now.
    policy: Callable[[], Policy]
    #: Limits how many connections to targets each application may have.
    shares: Shares
    #: The local ports of flows that have ended.
    recent_ports: RecentPorts
    events: EventStream
    #: Counts the streams that are opened, and those that are not.
    counters: EndpointCounters
    #: Waits until the events so far are in the audit log, before the target is dialed (`AuditLog.wait_recorded`).
    #: None: there is no audit log.
    recorded: Callable[[], Awaitable[None]] | None
    #: Called with the result of each attempt to connect to a target. An attempt that the policy forbids, or that was
    #: cancelled, has no result.
    target_attempted: TargetAttempted
    named_instances: NamedInstances
    #: Returns seconds on a monotonic clock.
    clock: Callable[[], float]


class ServedStream:
    """One stream, from the application's request to its one outcome."""

    #: What the policy decides about.
    action: ClassVar = Action.OPEN_STREAM
    __slots__ = (
        "_bridge",
        "_denial",
        "_dialing",
        "_offer",
        "_progress",
        "_refusal",
        "_serving",
        "_target",
        "addresses",
        "dialed",
        "events",
        "origin",
    )

    def __init__(
        self,
        serving: Serving,
        offer: Offer,
        origin: Origin,
        events: StreamEvents,
        refusal: NotConnected | None,
    ) -> None:
        self._serving = serving
        self._offer = offer
        self.origin = origin
        #: Publishes the events of the stream.
        self.events = events
        self._target = events.target
        #: What is dialed: the target. For a named instance, this becomes its host and port once the port is known.
        self.dialed: StreamTarget = events.target
        #: Why the stream is refused, whatever the policy says; None if it is not.
        self._refusal = refusal
        #: The bytes that the bridge has moved so far; None while the target is not connected.
        self._progress: BridgeProgress | None = None
        #: The bridge to the target; None while the target is not connected.
        self._bridge: RunningBridge | FlowBridge | None = None
        #: The attempt to connect to the target, while there is one.
        self._dialing: trio.CancelScope | None = None
        #: Why the policy has ended the stream; None if it has not.
        self._denial: Decision | None = None
        #: The IP addresses of the target that may be dialed, or the one that is connected; or the path of the Unix
        #: socket.
        self.addresses: tuple[str, ...] = ()

    @property
    def so_far(self) -> Bridged | FlowTotals | None:
        """The progress of the bridge; None while the target is not connected."""
        return None if self._progress is None else self._progress.so_far()

    @property
    def bytes_so_far(self) -> tuple[int, int] | None:
        """The bytes that were moved to the target, and to the client; None while the target is not connected."""
        match self.so_far:
            case Bridged(received=to_target, sent=to_client):
                return to_target, to_client
            case FlowTotals(bytes_to_target=to_target, bytes_to_client=to_client):
                return to_target, to_client
        return None

    async def serve(self, bridges: Bridges) -> None:
        """Publish the first event, connect to the target and start the bridge, or refuse the stream. Any exception is
        an outcome of this stream alone. See `StreamService.serve`."""
        self.events.opened()
        # If none of the handlers below runs, this was cancelled. GOING_AWAY tells the client that the stream was not
        # processed, so that another session may open it.
        outcome = NotConnected(Reason.GOING_AWAY)
        try:
            reached = await self._admit_and_connect()
            if isinstance(reached, NotConnected):
                outcome = reached
            else:
                self._start(reached, bridges)
        except Exception as exc:  # noqa: BLE001
            # A bug in this program, or no memory. It is logged, and must not affect other streams.
            self._report_bug(exc)
            outcome = NotConnected(Reason.INTERNAL_ERROR)
        finally:
            if self._bridge is None:
                self._not_connected(outcome)

    def _report_bug(self, bug: Exception) -> None:
        self._serving.events.publish(unexpected_failure("stream", bug, self.origin.published.name))

    def _not_connected(self, outcome: NotConnected) -> None:
        self._offer.refuse(outcome.reason, outcome.client_text)  # without effect if the stream was withdrawn
        self._serving.counters.stream_opened(self.origin.published.name, outcome.reason)
        self._serving.streams.remove(self)
        self.events.ended(outcome)

    async def _admit_and_connect(self) -> Connected | NotConnected:
        """Connect to the target, if the policy allows it and the application has descriptors and ports left in its
        shares. The connection counts in these until `_bridge_ended`."""
        if self._refusal is not None:
            return self._refusal
        peer, published = self.origin.peer, self.origin.published
        decision = self._serving.streams.decide_new(self)
        if decision.reason is not None:
            return self._policy_refusal(decision)
        with contextlib.ExitStack() as taken:
            for share in self._shares:
                if not share.take(self._owner):
                    why = share.why_refused(self._owner)
                    self._serving.events.publish(
                        ShareUsedUp(
                            connection=published.name,
                            label=peer.label,
                            serial=peer.serial,
                            detail=why,
                            remedy=share.remedy,
                        )
                    )
                    return NotConnected(Reason.LIMIT, why, why)
                taken.callback(share.give_back, self._owner)
            target = await self._connect_until_withdrawn()
            if not isinstance(target, NotConnected):
                taken.pop_all()
            return target

    def _policy_refusal(self, denial: Decision) -> NotConnected:
        """Publish that the policy refuses the stream, and return this outcome. The client is not told the rule."""
        return NotConnected(self._publish_refusal(denial), denial.rule)

    def _publish_refusal(self, denial: Decision) -> Reason:
        """Publish that the policy does not allow the stream, or no longer allows it. Returns the reason."""
        assert denial.reason is not None
        self._serving.events.publish(
            PolicyRefused(
                connection=self.origin.published.name,
                label=self.origin.peer.label,
                serial=self.origin.peer.serial,
                reason=denial.reason,
                detail=denial.rule,
                rule=denial.kind,
                activity_id=self.events.activity_id,
            )
        )
        return denial.reason

    def deny(self, denial: Decision) -> None:
        """End the stream, because the policy no longer allows it. Idempotent."""
        if self._denial is not None:
            return
        self._denial = denial
        if self._bridge is not None:
            self._bridge.cut_off(self._publish_refusal(denial))
        elif self._dialing is not None:
            self._dialing.cancel()

    @property
    def _owner(self) -> tuple[Published, str]:
        return self.origin.published, self.origin.peer.owner_id

    @property
    def _shares(self) -> tuple[Share, ...]:
        """The shares in which the connection to the target counts."""
        shares = self._serving.shares
        return shares.descriptors, shares.ports(self._target)

    async def _connect_measured(self) -> Connected:
        """Connect to the target, send the PROXY header if there is one, and record how long this has taken. Raises
        TargetError."""
        began = self._serving.clock()
        connected = await self._dial()
        if self.origin.published.sends_proxy_header:
            await self._send_proxy_header(connected)
        self._serving.counters.target_connect.observe(self._serving.clock() - began)
        return connected

    def _start(self, target: Connected, bridges: Bridges) -> None:
        assert isinstance(target, trio.SocketStream)
        self._progress = BridgeProgress()
        if isinstance(self._target, UnixSocket):
            self.events.address = f"{UNIX_PREFIX}{self.addresses[0]}"
        else:
            self.events.address = peer_address(target)
        self._serving.counters.stream_opened(self.origin.published.name)
        self._bridge = bridges.start(self._offer.accept(), target, progress=self._progress, over=self._bridge_ended)

    def _bridge_ended(self, bug: Exception | None) -> None:
        """Note that the bridge has ended, and has closed the connection to the target."""
        if bug is not None:
            self._report_bug(bug)
        cut_off_because = self._cut_off_because(bug)
        self._give_back()
        progress, ended_at = self._progress, self._serving.clock()
        assert progress is not None
        progress.when_settled(
            lambda: self.events.ended(outcome_of(progress.so_far(), cancelled_because=cut_off_because), ended_at)
        )

    def _give_back(self) -> None:
        """Note that the stream has ended, and no longer has a connection to the target."""
        for share in self._shares:
            share.give_back(self._owner)
        self._serving.streams.remove(self)

    def _cut_off_because(self, bug: Exception | None) -> Reason:
        """Return the reason that counts if the stream was cut off."""
        if bug is not None:
            return Reason.INTERNAL_ERROR
        if self._denial is not None and self._denial.reason is not None:
            return self._denial.reason
        return Reason.GOING_AWAY  # this connector stops

    async def _connect_until_withdrawn(self) -> Connected | NotConnected:
        """Wait for the audit log and connect to the target, unless the client withdraws the stream, or the policy
        changes: then the attempt is cancelled. Every failure is converted to an outcome."""
        attempt_began = trio.current_time()
        try:
            with trio.CancelScope() as self._dialing:
                self._offer.cancel_when_withdrawn(self._dialing)
                await wait_recorded(self._serving.recorded, self._serving.policy())
                attempt_began = trio.current_time()
                connected = await self._connect_measured()
                self._serving.target_attempted(self._target, attempt_began, None)
                self.origin.published.target_denial = None
                if not isinstance(self._target, UnixSocket):  # for a Unix socket, `_permit` has noted the path
                    self.addresses = _host_of(connected)
                if self._denial is None:
                    return connected
                _abandon(connected)  # the policy has changed too late to cancel the attempt
        except NotRecordedError as exc:
            return NotConnected(Reason.AUDIT_UNAVAILABLE, str(exc))
        except TargetDenied as exc:
            self.origin.published.target_denial = exc.decision
            return self._policy_refusal(exc.decision)
        except TargetError as exc:
            self._serving.target_attempted(self._target, attempt_began, exc)
            if exc.remedy is not None:
                name, target = self.origin.published.name, str(self._target)
                self._serving.events.publish(
                    TargetOutOfResources(connection=name, target=target, detail=str(exc), remedy=exc.remedy)
                )
            return NotConnected(exc.reason, str(exc.__cause__ or exc), str(exc))
        finally:
            self._dialing = None
        if self._denial is not None:
            return self._policy_refusal(self._denial)
        return NotConnected(self._offer.withdrawn_reason or Reason.CANCELLED)

    async def _dial(self) -> trio.SocketStream:
        """Connect to an address of the target, and do nothing else. Raises what `open_target` raises."""
        in_parallel = self.origin.published.connects_in_parallel
        # Each attempt at a further address takes a descriptor, too, as long as it lasts.
        spare = SpareOf(self._serving.shares.descriptors, self._owner)
        if isinstance(self._target, NamedInstance):
            instances = self._serving.named_instances
            return await instances.open(
                self._target, permit=self._permit_instance, in_parallel=in_parallel, spare=spare
            )
        return await open_target(self._target, permit=self._permit, in_parallel=in_parallel, spare=spare)

    async def _send_proxy_header(self, connected: trio.SocketStream) -> None:
        """Send the PROXY header. If that fails or is cancelled, the connection is reset.

        Raises:
            TargetError: the target has ended the connection.
        """
        try:
            target = connected.socket.getpeername()
            await connected.send_all(proxy_header(self.origin, self.events.activity_id, target))
        except (OSError, trio.BrokenResourceError) as exc:
            abort_socket(connected)
            raise TargetError("the target ended the connection", Reason.TARGET_REFUSED) from exc
        except BaseException:
            abort_socket(connected)
            raise

    def _permit(self, address: str) -> Decision:
        """Return whether an address to which the target's name resolves may be dialed. If so, note it in
        `addresses`."""
        decision = self._serving.streams.decide(self, address=address)
        if decision.reason is None:
            self.addresses += (address,)
        return decision

    def _permit_instance(self, target: StreamTarget, address: str) -> Decision:
        """Return whether an address of a named instance may be asked for its port, or be dialed at this port."""
        if target != self.dialed:
            self.dialed, self.addresses = target, ()
        return self._permit(address)

    def report_open(self) -> None:
        """Publish that the stream is still open, if nothing was published about it for `REPEAT_SECONDS`."""
        if (so_far := self.bytes_so_far) is not None:
            self.events.still_open(bytes_to_target=so_far[0], bytes_to_client=so_far[1], at_most_every=REPEAT_SECONDS)


def _abandon(connected: Connected) -> None:
    if isinstance(connected, trio.SocketStream):
        abort_socket(connected)
    else:
        connected.close()


def _host_of(target: Connected) -> tuple[str, ...]:
    """Return the IP address that a connection leads to; empty if the connection has already ended."""
    return tuple(_peer_name(target)[:1])


def _peer_name(connected: Connected) -> tuple[Any, ...]:
    """Return the address of the peer as `socket.getpeername` does; empty if the connection has already ended."""
    sock = connected.socket if isinstance(connected, trio.SocketStream) else connected
    try:
        return tuple(sock.getpeername())
    except OSError:
        return ()


def peer_address(target: Connected) -> str:
    """Return the address that a connection leads to; empty if the connection has already ended."""
    name = _peer_name(target)
    return format_address(*name[:2]) if name else ""
