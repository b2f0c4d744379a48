"""Serving one stream of an application: policy, target, moving the bytes, and exactly one outcome."""

# This module is long because everything between the request of a stream and its outcome is in one place.

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar, TypeAlias

import attrs
import trio

from .._unexpected_failure import unexpected_failure
from ..audit.record import NotRecordedError
from ..connectivity import format_address
from ..connectivity.counters import EndpointCounters
from ..events.connector_resources import ShareUsedUp, TargetOutOfResources
from ..events.policy import PolicyRefused
from ..events.stream import EventStream
from ..mux import Bridged, BridgeProgress, Bridges, Kind, Offer, RunningBridge
from ..policy import Action, Decision, Policy
from ..policy.local_time import local_now
from ..protocol.reasons import Reason
from ..security import HostPort, NamedInstance, StreamTarget, UnixSocket
from ..security.targets import UNIX_PREFIX
from ..streams.sockets import abort_socket
from .flow_bridge import FlowBridge, FlowCarried
from .named_instances import NamedInstances
from .outcome import NotConnected, outcome_of, outcome_of_flow
from .proxy_header import proxy_header
from .published import Published
from .recorded import wait_recorded
from .requested import first_target, requested_untrusted
from .shares import Share, Shares, SpareOf
from .stream_events import Origin, StreamEvents
from .targets import (
    TargetAttempted,
    TargetDenied,
    TargetError,
    ignore_attempt,
    open_datagram_target,
    open_target,
)

__all__ = ["MAX_FLOWS_PER_SESSION", "REPEAT_SECONDS", "ServedFlow", "ServedStream", "StreamService"]

#: An event is published for each open stream at this interval (seconds).
REPEAT_SECONDS = 24 * 3600.0
#: How many flows of datagrams a session may have. Each has a UDP socket, and any datagram of an application from
#: another port opens one.
MAX_FLOWS_PER_SESSION = 1024
#: How often to check for streams whose next event is due (seconds).
_CHECK_SECONDS = 600.0
#: What leads to the target: a connection, or the UDP socket of a flow.
_Connected: TypeAlias = trio.SocketStream | socket.socket


class StreamService:
    """Serves the streams of all sessions of a connector.

    Args:
        policy: returns the policy that is in force now.
        shares: limits how many connections to targets each application may have.
        events: the stream to which events are published.
        counters: counts the streams that are opened, and those that are not.
        target_attempted: is told how each attempt to connect to a target has ended, unless it was withdrawn or the
            policy has decided against it.
        named_instances: finds the ports of named instances.
        recorded: waits until the events so far are in the audit log, before the target is dialed
            (`AuditTrail.wait_recorded`). None: there is no audit log.
        clock: returns seconds on a monotonic clock.
        local_time: returns the local time of the machine.
    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        shares: Shares,
        events: EventStream,
        counters: EndpointCounters,
        clock: Callable[[], float] = time.monotonic,
        recorded: Callable[[], Awaitable[None]] | None = None,
        named_instances: NamedInstances | None = None,
        local_time: Callable[[], dt.datetime] = local_now,
        target_attempted: TargetAttempted = ignore_attempt,
    ) -> None:
        self.policy = policy
        self.local_time = local_time
        self.shares = shares
        self.clock = clock
        self.events = events
        self.counters = counters
        self.recorded = recorded
        self.target_attempted = target_attempted
        self.named_instances = NamedInstances() if named_instances is None else named_instances
        #: The open streams, in the order in which they began.
        self._open: dict[ServedStream, None] = {}
        #: How many of them each label has, and how many flows each session has, by its id in events.
        self._of_label: Counter[str] = Counter()
        self._flows: Counter[str] = Counter()

    def __iter__(self) -> Iterator[ServedStream]:
        """Return all streams that have not ended, the oldest first."""
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, offer: Offer, origin: Origin, bridges: Bridges) -> None:
        """Connect to the target for a stream that an application requests, start the bridge between the two, and
        return. For a flow of datagrams, return when it has ended. An error does not affect other streams.

        Publishes one event at the beginning and exactly one at the end of the stream. The second one is published
        when the stream has ended and the client has acknowledged everything, or the session ends; at the latest 5
        seconds after the end of the stream. If cancelled before the target is connected, the stream is refused with
        `Reason.GOING_AWAY`; a flow is reset.

        Args:
            offer: the request.
            origin: where it comes from, for events.
            bridges: the bridges of the session. When they are cut off, the stream ends.
        """
        requested = requested_untrusted(origin.published.target, offer.metadata, offer.kind)
        stream_events = self._events_of(origin, offer.stream_id, requested.target)
        is_flow = offer.kind is Kind.DATAGRAMS
        served = (ServedFlow if is_flow else ServedStream)(self, offer, origin, stream_events, requested.refusal)
        self._open[served] = None
        self._of_label[origin.peer.label] += 1
        if is_flow:
            self._flows[origin.session] += 1
        await served.serve(bridges)
        if isinstance(served, ServedFlow):
            await served.run()

    def may_open_flow(self, served: ServedFlow) -> bool:
        """Return whether a session may have a flow, which is already counted."""
        return self._flows[served.origin.session] <= MAX_FLOWS_PER_SESSION

    def ended(self, served: ServedStream) -> None:
        """Note that a stream has ended."""
        del self._open[served]
        _count_down(self._of_label, served.origin.peer.label)
        if isinstance(served, ServedFlow):
            _count_down(self._flows, served.origin.session)

    def decide(self, served: ServedStream, *, address: str = "", streams: int = 0, of_label: int = 0) -> Decision:
        """Return whether the policy allows a stream.

        Args:
            served: the stream.
            address: the IP address of the target, if it is known.
            streams, of_label: how many other streams count against the limits.
        """
        policy, origin = self.policy(), served.origin
        resource = attrs.evolve(
            origin.published.resource(served.dialed),
            address=address,
            streams=streams,
            streams_of_label=of_label,
            at=self.local_time() if policy.depends_on_time else None,
        )
        return policy.decide(origin.peer, served.action, resource)

    def decide_new(self, served: ServedStream) -> Decision:
        """Return whether the policy allows a stream that is requested now, before its target's name is resolved."""
        others = len(self._open) - 1, self._of_label[served.origin.peer.label] - 1
        return self.decide(served, streams=others[0], of_label=others[1])

    def enforce(self) -> None:
        """End the streams that the policy no longer allows. The oldest ones count first against its limits."""
        count, of_label = 0, Counter[str]()
        for served in list(self._open):
            label = served.origin.peer.label
            decisions = (
                self.decide(served, address=address, streams=count, of_label=of_label[label])
                for address in served.addresses or ("",)
            )
            denial = next((one for one in decisions if one.reason is not None), None)
            if denial is not None:
                served.deny(denial)
            else:
                count += 1
                of_label[label] += 1

    def publish_refusal(self, served: ServedStream, denial: Decision) -> None:
        """Publish that the policy does not allow a stream, or no longer allows it."""
        assert denial.reason is not None
        self.events.publish(
            PolicyRefused(
                connection=served.origin.published.name,
                label=served.origin.peer.label,
                serial=served.origin.peer.serial,
                reason=denial.reason,
                detail=denial.rule,
                rule=denial.kind,
                activity_id=served.events.activity_id,
            )
        )

    def session_refused(self, stream: int, reason: Reason, origin: Origin) -> None:
        """Publish the events of a stream that the session itself refused, because of one of its limits."""
        stream_events = self._events_of(origin, stream, first_target(origin.published.target))
        stream_events.opened()
        stream_events.ended(NotConnected(reason))
        self.counters.stream_opened(origin.published.name, reason)

    def _events_of(self, origin: Origin, stream: int, target: StreamTarget) -> StreamEvents:
        return StreamEvents(self.events, origin, stream, target, self.clock)

    async def keep_reporting(self) -> None:
        """Publish an event each day for each stream that is open, until cancelled."""
        while True:
            await trio.sleep(_CHECK_SECONDS)
            self.report_open()

    def report_open(self) -> None:
        """Publish an event for each stream about which nothing was published for `REPEAT_SECONDS`."""
        for served in list(self._open):
            served.report_open()


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
        "_service",
        "_target",
        "addresses",
        "dialed",
        "events",
        "origin",
    )

    def __init__(
        self,
        service: StreamService,
        offer: Offer,
        origin: Origin,
        events: StreamEvents,
        refusal: NotConnected | None,
    ) -> None:
        self._service = service
        self._offer = offer
        self.origin = origin
        #: Publishes the events of the stream.
        self.events = events
        self._target = events.target
        #: What is dialed: the target. For a named instance, this becomes its host and port once the port is known.
        self.dialed: StreamTarget = events.target
        #: Why it is refused whatever the policy says; None if it is not.
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
    def so_far(self) -> Bridged | FlowCarried | None:
        """The progress of the bridge; None while the target is not connected."""
        return None if self._progress is None else self._progress.so_far()

    @property
    def bytes_so_far(self) -> tuple[int, int] | None:
        """The bytes that were moved to the target, and to the client; None while the target is not connected."""
        match self.so_far:
            case Bridged(received=to_target, sent=to_client):
                return to_target, to_client
            case FlowCarried(bytes_to_target=to_target, bytes_to_client=to_client):
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
        self._service.events.publish(unexpected_failure("stream", bug, self.origin.published.name))

    def _not_connected(self, outcome: NotConnected) -> None:
        self._offer.refuse(outcome.reason, outcome.client_text)  # without effect if the stream was withdrawn
        self._service.counters.stream_opened(self.origin.published.name, outcome.reason)
        self._service.ended(self)
        self.events.ended(outcome)

    async def _admit_and_connect(self) -> _Connected | NotConnected:
        """Connect to the target, if the policy allows it and the application has descriptors and ports left in its
        shares. The connection counts in these until `_bridge_ended`."""
        if self._refusal is not None:
            return self._refusal
        peer, published = self.origin.peer, self.origin.published
        decision = self._service.decide_new(self)
        if decision.reason is not None:
            return self._policy_refusal(decision)
        with contextlib.ExitStack() as taken:
            for share in self._shares:
                if not share.take(self._owner):
                    why = share.why_refused(self._owner)
                    self._service.events.publish(
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
        assert denial.reason is not None
        self._service.publish_refusal(self, denial)
        return NotConnected(denial.reason, denial.rule)

    def deny(self, denial: Decision) -> None:
        """End the stream, because the policy no longer allows it. Idempotent."""
        if self._denial is not None:
            return
        self._denial = denial
        if self._bridge is not None:
            assert denial.reason is not None
            self._service.publish_refusal(self, denial)
            self._bridge.cut_off(denial.reason)
        elif self._dialing is not None:
            self._dialing.cancel()

    @property
    def _owner(self) -> tuple[Published, str]:
        return self.origin.published, self.origin.peer.holder

    @property
    def _shares(self) -> tuple[Share, ...]:
        shares = self._service.shares
        return shares.descriptors, shares.ports(self._target)

    async def _connect_measured(self) -> _Connected:
        """Connect to the target, send the PROXY header if there is one, and count how long that has taken. Raises
        TargetError."""
        began = self._service.clock()
        connected = await self._dial()
        if self.origin.published.sends_proxy_header:
            await self._send_proxy_header(connected)
        self._service.counters.target_connect.observe(self._service.clock() - began)
        return connected

    def _start(self, target: _Connected, bridges: Bridges) -> None:
        assert isinstance(target, trio.SocketStream)
        self._progress = BridgeProgress()
        if isinstance(self._target, UnixSocket):
            self.events.address = f"{UNIX_PREFIX}{self.addresses[0]}"
        else:
            self.events.address = _peer_address(target)
        self._service.counters.stream_opened(self.origin.published.name)
        self._bridge = bridges.start(self._offer.accept(), target, progress=self._progress, over=self._bridge_ended)

    def _bridge_ended(self, bug: Exception | None) -> None:
        """Note that the bridge has ended, and has closed the connection to the target."""
        if bug is not None:
            self._report_bug(bug)
        cut_off_because = self._cut_off_because(bug)
        self._give_back()
        progress, ended_at = self._progress, self._service.clock()
        assert progress is not None
        progress.when_settled(
            lambda: self.events.ended(outcome_of(progress.so_far(), cancelled_because=cut_off_because), ended_at)
        )

    def _give_back(self) -> None:
        """Note that the stream has ended, and no longer has a connection to the target."""
        for share in self._shares:
            share.give_back(self._owner)
        self._service.ended(self)

    def _cut_off_because(self, bug: Exception | None) -> Reason:
        """Return the reason that counts if the stream was cut off."""
        if bug is not None:
            return Reason.INTERNAL_ERROR
        if self._denial is not None and self._denial.reason is not None:
            return self._denial.reason
        return Reason.GOING_AWAY  # this connector stops

    async def _connect_until_withdrawn(self) -> _Connected | NotConnected:
        """Wait for the audit log and connect to the target, unless the client withdraws the stream, or the policy
        changes: then the attempt is cancelled. Every failure is converted to an outcome."""
        attempt_began = trio.current_time()
        try:
            with trio.CancelScope() as self._dialing:
                self._offer.cancel_when_withdrawn(self._dialing)
                await wait_recorded(self._service.recorded, self._service.policy())
                attempt_began = trio.current_time()
                connected = await self._connect_measured()
                self._service.target_attempted(self._target, attempt_began, None)
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
            self._service.target_attempted(self._target, attempt_began, exc)
            if exc.remedy is not None:
                name, target = self.origin.published.name, str(self._target)
                self._service.events.publish(
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
        spare = SpareOf(self._service.shares.descriptors, self._owner)
        if isinstance(self._target, NamedInstance):
            instances = self._service.named_instances
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
        decision = self._service.decide(self, address=address)
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


class ServedFlow(ServedStream):
    """One flow of datagrams, from the application's request to its one outcome."""

    __slots__ = ()
    action: ClassVar = Action.OPEN_DATAGRAMS

    @property
    def so_far(self) -> FlowCarried | None:
        """What the flow has carried; None while the target is not connected."""
        return self._bridge.so_far() if isinstance(self._bridge, FlowBridge) else None

    async def _admit_and_connect(self) -> _Connected | NotConnected:
        if not self._service.may_open_flow(self):
            text = f"the session has {MAX_FLOWS_PER_SESSION} flows of datagrams, which is the limit"
            return NotConnected(Reason.LIMIT, text, text)
        return await super()._admit_and_connect()

    def _not_connected(self, outcome: NotConnected) -> None:
        self._service.counters.datagrams_dropped["refused"] += self._offer.waiting_datagrams
        super()._not_connected(outcome)

    async def _connect_measured(self) -> _Connected:
        assert isinstance(self._target, HostPort)
        return await open_datagram_target(self._target, permit=self._permit)

    def _start(self, target: _Connected, bridges: Bridges) -> None:
        assert isinstance(target, socket.socket)
        assert isinstance(self._target, HostPort)
        self.events.address = _peer_address(target)
        counters = self._service.counters
        counters.stream_opened(self.origin.published.name)
        self._bridge = FlowBridge(self._offer.accept_flow(), target, self._target.port, counters)

    async def run(self) -> None:
        """Serve the flow until it ends, if it was opened. If cancelled, it is reset."""
        if not isinstance(bridge := self._bridge, FlowBridge):
            return
        bug: Exception | None = None
        try:
            await bridge.run()
        except Exception as exc:  # noqa: BLE001 - it is logged, and must not affect other streams
            bug = exc
            self._report_bug(exc)
        finally:
            self._give_back()
            bridge.flow.set_end_callback(
                lambda end: self.events.ended(
                    outcome_of_flow(end, bridge.so_far(), bridge.has_target_failed, self._cut_off_because(bug))
                )
            )


def _count_down(counter: Counter[str], key: str) -> None:
    """Subtract one, and remove a count of zero."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _abandon(connected: _Connected) -> None:
    if isinstance(connected, trio.SocketStream):
        abort_socket(connected)
    else:
        connected.close()


def _host_of(target: _Connected) -> tuple[str, ...]:
    """Return the IP address that a connection leads to; empty if the connection has already ended."""
    return tuple(_peer_name(target)[:1])


def _peer_name(connected: _Connected) -> tuple[Any, ...]:
    """Return the address of the peer as `socket.getpeername` does; empty if the connection has already ended."""
    sock = connected.socket if isinstance(connected, trio.SocketStream) else connected
    try:
        return tuple(sock.getpeername())
    except OSError:
        return ()


def _peer_address(target: _Connected) -> str:
    """Return the address that a connection leads to; empty if the connection has already ended."""
    name = _peer_name(target)
    return format_address(*name[:2]) if name else ""
