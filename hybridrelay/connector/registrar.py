"""The Trio shell around `registration.Machine`, for one relay: executes the machine's commands."""

# This module is long because each command of the machine has its method here.

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from .._nursery import FlatNursery
from ..abc import Purpose
from ..audit.witnessing import Witnessing
from ..connectivity.control import ControlChannel
from ..connectivity.discovery import Candidate
from ..connectivity.link import RelayLink, make_connection_token
from ..connectivity.new_keys import check_token
from ..connectivity.refusals import failure_error
from ..connectivity.snapshot import FailureSnapshot, RelaySnapshot, RelayState
from ..connectivity.witnessing import send_checkpoints
from ..errors import HybridRelayError, RelayUnreachable
from ..events.base import Event
from ..events.connector import InstanceReplaced
from ..events.stream import EventStream
from ..protocol import control
from ..protocol.reasons import Reason
from ..security import ConnectionString, Secret, Target
from .channels import MAX_UNPROVEN_CHANNELS, DataChannels
from .instance_file import Instances
from .published import Publication, Published
from .registration import Machine, commands, inputs
from .sessions import Sessions
from .target_monitor import TargetMonitor
from .target_reports import TargetReporter
from .unproven import Failures, UnprovenChannels

__all__ = ["Registrar"]


@attrs.define(eq=False)
class _Running:
    """A control channel that is being opened, or is open."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    #: The channel; None until it is open.
    channel: ControlChannel | None = None
    #: Runs the requests over the channel. They end with it.
    nursery: trio.Nursery | None = None
    #: Tells the relay about the health of targets over it; None until something is registered over it.
    reporter: TargetReporter | None = None
    #: Whether checkpoints of the audit log are sent over it.
    is_witnessed: bool = False
    #: The answers to the message that is being handled.
    replies: deque[control.Message] = attrs.field(factory=deque)


@attrs.define(eq=False)
class _RouteQuestion:
    """A question to the machine: should a better route be used? `answer` is valid once `answered` is set."""

    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: commands.AnswerRoute = attrs.field(factory=commands.AnswerRoute)


class Registrar:
    """Keeps hybrid connections registered at one relay, independently of other relays, until stopped.

    Args:
        link: the relay.
        channels: serves the data channels that the relay offers.
        sessions: the connector's sessions, through all relays.
        instances: the instances of this connector; the relay is told that earlier ones are dead.
        monitor: the health of the targets, which is reported to the relay.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
        changed: called when a hybrid connection was registered, refused or lost at this relay.
        witnessing: the checkpoints of the audit log, which the relay is asked to keep; None: there are none.
    """

    def __init__(
        self,
        link: RelayLink,
        channels: DataChannels,
        sessions: Sessions,
        instances: Instances,
        monitor: TargetMonitor,
        *,
        clock: Callable[[], float],
        events: EventStream,
        changed: Callable[[], None],
        witnessing: Witnessing | None = None,
    ) -> None:
        self.link = link
        self._witnessing = witnessing
        self._data_channels = channels
        self._sessions = sessions
        self._instances = instances
        self._monitor = monitor
        self._replaces = tuple(instance.secret for instance in instances.dead)
        self._clock = clock
        self._events = events
        self._changed = changed
        self._machine = Machine(link.host, random=random.random)
        self._publications: dict[str, Publication] = {}
        #: The failed data channels of all publications.
        self._failures = Failures()
        #: Inputs that arrived while another one was being handled.
        self._inputs: deque[inputs.Input] = deque()
        self._is_handling = False
        self._health = inputs.SessionHealth.NONE
        self._running: dict[int, _Running] = {}
        #: The nursery of what ends with the last control channel.
        self._background: trio.Nursery | None = None
        #: The nursery of control channels, followed by that of data channels.
        self._nursery: trio.Nursery | None = None
        self._data_nursery: trio.Nursery | None = None
        #: Set when the machine's deadline has changed.
        self._rearm = trio.Event()
        #: The question of the last `inputs.MoveToRoute`.
        self._question = _RouteQuestion()

    # --- what is to be registered

    def publish(self, published: Published) -> None:
        """Register another hybrid connection."""
        self._feed(inputs.Publish(published.name, published.string))
        state = self._machine.registrations[published.name]
        unproven = UnprovenChannels(self._failures)
        publication = Publication(published, self.link, state, self._check_key, unproven=unproven)
        self._publications[published.name] = publication
        published.publications.append(publication)

    def find(self, name: str) -> Publication | None:
        """Return what is known of this hybrid connection at this relay; None if it is not to be registered here."""
        return self._publications.get(name)

    def unpublish(self, publication: Publication) -> None:
        """Stop registering a hybrid connection. When no hybrid connection is left, the registrar stops. Sessions
        continue."""
        name = publication.published.name
        if self._publications.get(name) is publication:
            del self._publications[name]
            self._feed(inputs.Unpublish(name))

    def update(self, published: Published) -> None:
        """Register a hybrid connection again, even if that was refused, because its connection string has changed."""
        self._feed(inputs.StringChanged(published.name, published.string))

    def check_replacement(self) -> None:
        """Tell the machine whether all its registrations are about to be replaced by those of another registrar."""
        retiring = [one for one in self._publications.values() if one in one.published.retiring]
        is_expected = len(retiring) == len(self._publications) and not any(one.is_kept for one in retiring)
        self._feed(inputs.ReplacementExpected(is_expected))

    def snapshot(self, publication: Publication) -> RelaySnapshot:
        """Return the state of one of the hybrid connections at this relay."""
        state = publication.state
        channel = None if state.over is None else self._channel(state.over)
        failure = state.last_failure
        if state.is_registered:
            kind = RelayState.REGISTERED
        elif state.is_refused:
            kind = RelayState.REFUSED
        else:
            kind = RelayState.WAITING if failure is None else RelayState.FAILED
        return RelaySnapshot(
            host=self.link.host,
            state=kind,
            instance=self.link.instance,
            since=self._time_of_day(state.registered_at) if state.is_registered else None,
            route=None if channel is None else self.link.describe(channel.candidate, Purpose.CONTROL),
            failure=None if failure is None else FailureSnapshot.of(failure, self._time_of_day(state.failed_at)),
        )

    def _time_of_day(self, at: float) -> float:
        """Convert a time on Trio's clock to seconds since 1970."""
        return self._clock() - (trio.current_time() - at)

    # --- what the connector notices

    @property
    def has_stopped(self) -> bool:
        """Whether the registrar has stopped, so that nothing is registered at this relay."""
        return self._machine.is_stopped

    def stop(self) -> None:
        """Close all control channels and open no others. The relay then makes no more offers."""
        self._feed(inputs.Stop())

    def network_changed(self) -> None:
        """Note that this machine was suspended, or has changed networks."""
        self._feed(inputs.RoutesUncertain())

    def check_channels(self) -> None:
        """Ping over the control channels, because a data channel was lost: clients need working control channels to
        resume their sessions."""
        self._feed(inputs.CheckChannels())

    def check_refusals(self) -> None:
        """Repeat requests that the relay refused a while ago, because all relays refuse now."""
        self._feed(inputs.CheckRefusals())

    # --- running

    async def run(self, data_nursery: trio.Nursery) -> None:
        """Keep a control channel open until `stop` is called. Data channels run in `data_nursery`.

        If the relay refuses everything for permanent reasons, the next attempt is made much later. If cancelled, the
        control channels are closed.
        """
        async with FlatNursery() as self._background:
            self._background.start_soon(self.link.upgrade_route, self._worst_route, self._move_up)
            async with FlatNursery() as self._nursery:
                self._data_nursery = data_nursery
                self._feed(inputs.Start())
                await self._keep_time()
            self._background.cancel_scope.cancel()
        if not self._publications:
            await self._instances.forget(self.link.own_instance)

    async def _keep_time(self) -> None:
        """Tell the machine when its deadlines are reached, until it stops."""
        while not self._machine.is_stopped:
            self._rearm = trio.Event()
            deadline = self._machine.deadline
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._rearm.wait()
            if deadline is not None and trio.current_time() >= deadline:
                self._feed(inputs.Due())

    def _feed(self, given: inputs.Input) -> None:
        """Pass an input to the machine and execute its commands. Inputs that result from commands are queued."""
        self._inputs.append(given)
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while self._inputs:
                following = self._inputs.popleft()
                if not isinstance(following, inputs.Offered):
                    self._look_at_sessions()
                self._handle(following)
        finally:
            self._is_handling = False
            self._rearm.set()

    def _handle(self, given: inputs.Input) -> None:
        now = trio.current_time() if trio.lowlevel.in_trio_run() else 0.0
        for output in self._machine.handle(given, now):
            if isinstance(output, Event):
                self._events.publish(output)
            else:
                self._execute(output)

    def _look_at_sessions(self) -> None:
        open_ones = [served.session.is_open for served in self._sessions.of(self.link)]
        sessions = inputs.SessionHealth.NONE
        if open_ones:
            sessions = inputs.SessionHealth.CONNECTED if all(open_ones) else inputs.SessionHealth.INTERRUPTED
        if sessions is not self._health:
            self._health = sessions
            self._handle(inputs.SessionsChanged(sessions))

    def _execute(self, command: commands.Command) -> None:
        match command:
            case commands.OpenChannel(number, route):
                assert self._nursery is not None
                self._running[number] = running = _Running()
                self._nursery.start_soon(self._run_channel, number, running, route)
            case commands.CloseChannel(number):
                if (channel := self._channel(number)) is not None:
                    channel.close()
            case commands.AbandonChannel(number):
                if number in self._running:
                    self._running[number].scope.cancel()
            case commands.CheckChannel(number):
                if (channel := self._channel(number)) is not None:
                    channel.check_alive()
            case commands.RequestRegistration(number):
                self._begin_request(self._running[number], command)
            case commands.WithdrawRegistration(number, request, name):
                running = self._running[number]
                assert running.channel is not None
                assert running.nursery is not None
                running.nursery.start_soon(_send, running.channel, control.Unregister(request, name))
            case commands.OpenDataChannel(number, offer, key):
                self._accept(self._running[number], offer, key)
            case commands.DeclineOffer(number, offer, reason):
                self._running[number].replies.append(control.Failed(offer.id, reason))
            case commands.UseKey(key):
                self.link.use_key(key)
            case commands.ForgetRoute(network_changed):
                self.link.forget(network_changed=network_changed)
            case commands.MoveSessions(route):
                assert self._nursery is not None
                self._nursery.start_soon(self._sessions.move, self.link, route)
            case commands.AnswerRoute():
                self._question.answer = command
                self._question.answered.set()
            case commands.RenewInstance(number):
                self._renew_instance(self._running[number])
            case commands.ReportChange():
                self._changed()

    # --- control channels

    def _channel(self, number: int) -> ControlChannel | None:
        """Return the control channel, if it is open."""
        running = self._running.get(number)
        return None if running is None else running.channel

    async def _run_channel(self, number: int, running: _Running, route: Candidate | None) -> None:
        """Open a control channel and serve it until it ends."""
        failure: HybridRelayError | None = None
        try:
            with running.scope:
                async with FlatNursery() as running.nursery:
                    try:
                        channel = running.channel = await self.link.start_control(running.nursery, route)
                    except HybridRelayError as exc:
                        failure = exc
                    else:
                        self._feed(inputs.ChannelOpened(number, channel.candidate, channel.relay))
                        await self._receive(number, running, channel)
                        running.nursery.cancel_scope.cancel()
        finally:
            if trio.current_effective_deadline() == -math.inf:
                self._feed(inputs.Stop())  # the connector was cancelled: this is not the loss of a channel
            del self._running[number]
            self._feed(inputs.ChannelEnded(number) if failure is None else inputs.OpeningFailed(number, failure))
            failure = None  # it would be in a cycle with its traceback, which refers to this frame

    async def _receive(self, number: int, running: _Running, channel: ControlChannel) -> None:
        """Handle the relay's messages until the channel ends. Each one is answered before the next is read. They
        count in the turns of the channel, so a relay that sends very many messages hardly delays the other relays."""
        turns = channel.turns
        try:
            async for message in channel.messages:
                if turns.begin():
                    await turns.next()
                match message:
                    case control.Offer():
                        self._feed(inputs.Offered(number, message))
                    case control.Registered(id=request):
                        self._feed(inputs.Confirmed(number, request))
                    case control.Ended(connection=name, reason=reason):
                        self._feed(inputs.EndedByRelay(number, name, reason))
                    case control.Key() | control.Update():
                        self._key_or_update_received(running, channel, message)
                    case control.Draining(retry_after_seconds=seconds):
                        self._feed(inputs.DrainAnnounced(number, float(seconds)))
                    case _:
                        pass
                turns.use(1, 0)
                while running.replies:
                    await channel.send(running.replies.popleft())
        except RelayUnreachable:
            pass  # an offer could not be answered: the channel is lost, which `_run_channel` reports

    def _begin_sending_checkpoints(self, number: int) -> None:
        running = self._running.get(number)
        if self._witnessing is None or running is None or running.channel is None or running.is_witnessed:
            return
        running.is_witnessed = True

        def registered() -> list[str]:
            return sorted(name for name, one in self._publications.items() if one.state.over == number)

        assert running.nursery is not None
        running.nursery.start_soon(send_checkpoints, running.channel, self.link.host, registered, self._witnessing)

    def _report_target(self, number: int, name: str) -> None:
        """Tell the relay about the health of the target of a hybrid connection that has just been registered, and
        from now on whenever it changes."""
        running = self._running.get(number)
        if running is None or running.channel is None:
            return
        if running.reporter is None:

            def targets() -> list[tuple[str, Target]]:
                registered = ((name, one) for name, one in self._publications.items() if one.state.over == number)
                return [(name, one.published.target) for name, one in registered]

            assert running.nursery is not None
            running.reporter = TargetReporter(self._monitor, targets)
            running.nursery.start_soon(running.reporter.run, running.channel)
        running.reporter.registered(name)

    def _key_or_update_received(
        self, running: _Running, channel: ControlChannel, message: control.Key | control.Update
    ) -> None:
        publication = self._publications.get(message.connection)
        if publication is None or publication.published.changes is None:
            return
        others = [one for one in publication.published.publications if one is not publication]
        handle = publication.published.changes.handler(channel, self.link.endpoint, message, others)
        if handle is not None:
            assert running.nursery is not None
            running.nursery.start_soon(handle)

    async def _check_key(self, publication: Publication, string: ConnectionString) -> None:
        """See `Publication.check_accepted`."""
        over = publication.state.over
        channel = None if over is None else self._channel(over)
        if channel is None:
            raise RelayUnreachable("the connector is not registered at this relay now")
        await check_token(channel, string, self.link.host, self._clock())

    def _accept(self, running: _Running, offer: control.Offer, key: Secret | None) -> None:
        publication = self._publications[offer.connection]
        newcomer = publication.unproven.admit(offer.holder, MAX_UNPROVEN_CHANNELS)
        if newcomer is None:
            running.replies.append(control.Failed(offer.id, Reason.LIMIT))
            return
        assert self._data_nursery is not None
        assert running.channel is not None
        self._data_nursery.start_soon(self._data_channels.serve, publication, running.channel, offer, newcomer, key)
        running.replies.append(control.Accept(offer.id))

    def _begin_request(self, running: _Running, command: commands.RequestRegistration) -> None:
        assert running.channel is not None
        assert running.nursery is not None
        publication = self._publications[command.name]
        other = publication.published.registered_at(running.channel.relay)
        if other is not None and other is not publication:
            self._feed(inputs.SameRelay(command.channel, command.request, other.link.host))
        else:
            running.nursery.start_soon(self._request, running.channel, command)

    async def _request(self, channel: ControlChannel, command: commands.RequestRegistration) -> None:
        """Ask the relay to register, and pass its answer to the machine."""
        token = make_connection_token(command.string, self.link.host, self._clock())
        asked = command.channel, command.request
        try:
            answer = await channel.register(control.Register(command.request, command.name, token, self._replaces))
        except HybridRelayError as exc:
            self._feed(inputs.RequestFailed(*asked, exc))
            return
        match answer:
            case control.Registered(expires_at=expires_at):
                self._feed(inputs.RequestGranted(*asked, expires_at - self._clock()))
                self._begin_sending_checkpoints(command.channel)
                self._report_target(command.channel, command.name)
            case control.Failed():
                self._feed(inputs.RequestRefused(*asked, failure_error(command.name, answer)))

    def _renew_instance(self, running: _Running) -> None:
        assert running.channel is not None
        earlier = self.link.own_instance
        if (instance := self.link.renew_instance(running.channel)) is not None:
            self._events.publish(InstanceReplaced(host=self.link.host, instance=instance.id))
            assert self._background is not None
            self._background.start_soon(self._instances.renew, earlier, instance)

    # --- better routes

    def _worst_route(self) -> Candidate | None:
        """Return the worst of the routes that are in use now."""
        routes = [served.candidate for served in self._sessions.of(self.link) if served.session.is_open]
        if self._machine.route is not None:
            routes.append(self._machine.route)
        return max(routes, key=lambda candidate: candidate.route.rank, default=None)

    async def _move_up(self, better: Candidate) -> None:
        """Move everything to a better route: first the control channel, then the sessions.

        Raises:
            HybridRelayError: registering over the better route failed. The current channel continues as before.
        """
        if self._machine.is_stopped:
            raise RelayUnreachable("the connector is stopping", reason=Reason.CANCELLED)
        question = self._question = _RouteQuestion()
        self._feed(inputs.MoveToRoute(better))
        await question.answered.wait()
        if question.answer.error is not None:
            raise question.answer.error
        if question.answer.move_sessions:
            await self._sessions.move(self.link, better)


async def _send(channel: ControlChannel, message: control.Message) -> None:
    """Send a message. If the channel is lost, the message is no longer needed, and the error is ignored."""
    with suppress(RelayUnreachable):
        await channel.send(message)
