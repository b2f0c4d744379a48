"""What the connector does at one relay: it keeps its hybrid connections registered there. Pure.

`Machine.handle` takes one input and returns commands, to be executed in their order, and events, to be published.
`inputs.py` and `commands.py` list them; `states.py` has the tables. Time comes in as an argument.

There is one control channel, the *current* one, except while the connector moves to a better route. Then it opens a
successor before it closes the current one. The successor registers everything; the relay sees its higher generation,
moves one registration after the other, and ends the earlier channel with the last. So there is a listener at every
moment. The rules:

1. Every control channel is served until it ends, whether it is the current one or not: offers come over all of them.
2. Only one registers at a time. The current one renews, and an earlier one renews what could not be taken over.
3. A channel that ends, and a registration that is taken from it, are a loss only if none has taken their place.
4. A successor that fails changes nothing. If it has taken something already, the current channel cannot get that
   back, since the relay accepts no lower generation: it ends, and another is opened as after any loss.
5. When the current channel ends, earlier ones are closed: nothing would renew what is registered over them.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ... import events
from ...connectivity.backoff import Backoff
from ...connectivity.discovery import Candidate
from ...connectivity.refusals import failure_error, is_hopeless
from ...connectivity.repeated_failure import RepeatedFailure
from ...errors import AuthorizationError, ConfigurationError, HybridRelayError, RelayUnreachable
from ...protocol import control
from ...protocol.reasons import Reason
from ...security import ConnectionString, Secret
from . import commands, inputs
from .channel import MAX_NOTICES, Channel, Purpose, Round
from .entry import Registration
from .states import PHASES, ChannelCause, ChannelState, Phase, PhaseCause

__all__ = ["MAX_GRANT", "RENEW_AFTER", "Machine", "Output"]

#: What `handle` returns.
Output: TypeAlias = commands.Command | events.Event

#: Registrations are renewed after this part of the time that the relay grants.
RENEW_AFTER = 0.7
#: A longer grant than this counts as this (seconds).
MAX_GRANT = 3600.0
#: The shortest time between two renewals, whatever the relay grants (seconds).
MIN_RENEWAL_SECONDS = 1.0
#: The longest wait between two attempts to come back while there are sessions, which may be waiting for it (seconds).
RESUME_BACKOFF = 2.0


class Machine:
    """The registrations at one relay.

    Args:
        host: the relay, as the connection string has it; for events.
        random: numbers in [0, 1) for the jitter of back-offs.
    """

    def __init__(self, host: str, *, random: Callable[[], float]) -> None:
        self.host = host
        self.phase = Phase.IDLE
        #: By name, in the order in which they were published.
        self.registrations: dict[str, Registration] = {}
        self._make_backoff = partial(Backoff, random=random)
        #: Those that are not over, the earliest first.
        self._channels: dict[int, Channel] = {}
        self._numbers = itertools.count(1)
        self._requests = itertools.count(1)
        #: What was asked by which request over which channel, until the place of the answer among the relay's other
        #: messages is known: what it offers afterwards is authorized by that key.
        self._asked: dict[int, tuple[int, Registration, Secret]] = {}
        self._round: Round | None = None
        #: Rounds that wait for the present one.
        self._waiting_rounds: deque[Round] = deque()
        #: The better route that is being moved to, and the channel that is opened over it.
        self._better: tuple[Candidate, int] | None = None
        #: A better route was found while there was no control channel: sessions follow to the next one.
        self._sessions_follow = False
        self._sessions = inputs.Sessions.NONE
        self._backoff = self._make_backoff()
        self._repeated = RepeatedFailure()
        #: Something was registered here once.
        self._has_worked = False
        #: The relay could be reached by the last attempt, and registered nothing.
        self._has_answered = False
        #: When the attempt has begun, and when something could be registered during it.
        self._began = 0.0
        self._usable_since: float | None = None
        #: What the relay has asked for before its restart (seconds).
        self._retry_after = 0.0
        self._wait_until: float | None = None
        self._key: Secret | None = None
        self._out: list[Output] = []

    # --- looking at it

    @property
    def deadline(self) -> float | None:
        """When `inputs.Due` is to be given; None: nothing has a time now."""
        times = [channel.due for channel in self._channels.values() if channel.due is not None]
        if self._wait_until is not None:
            times.append(self._wait_until)
        return min(times, default=None)

    @property
    def is_stopped(self) -> bool:
        """Nothing more will be commanded."""
        return self.phase is Phase.STOPPED

    @property
    def route(self) -> Candidate | None:
        """The route of the current control channel, if there is one."""
        current = self._current
        return None if current is None else current.route

    @property
    def is_refused(self) -> bool:
        """The relay refuses all of them."""
        return all(one.is_refused for one in self.registrations.values())

    def asks_again_in(self, now: float) -> float:
        """Seconds until the relay may be asked for one that it has refused; `MAX_GRANT` if there is none."""
        return min(
            (one.asks_again_in(now) for one in self.registrations.values() if one.is_refused), default=MAX_GRANT
        )

    def _is_hopeless(self, now: float) -> bool:
        """All are refused, and it is not yet time to ask again."""
        return self.is_refused and self.asks_again_in(now) > 0

    @property
    def _current(self) -> Channel | None:
        return next((one for one in self._channels.values() if one.state is ChannelState.CURRENT), None)

    def _over(self, channel: Channel) -> list[str]:
        return [name for name, one in self.registrations.items() if one.over == channel.number]

    # --- inputs

    def handle(self, given: inputs.Input, now: float) -> list[Output]:
        """What has to be done because of this input. `now` never runs backwards."""
        self._out = []
        if self.phase is not Phase.STOPPED:
            self._dispatch(given, now)
        return self._out

    def _dispatch(self, given: inputs.Input, now: float) -> None:
        match given:
            case inputs.Start():
                self._attempt(PhaseCause.STARTED, now)
            case inputs.Publish(name, string):
                self.registrations[name] = Registration(name, string)
                self._choose_key()
                self._ask_now(now)
            case inputs.Unpublish(name):
                self._unpublish(name)
            case inputs.StringChanged(name, string):
                self._change_string(self.registrations[name], string, now)
            case inputs.ChannelOpened(number, route, relay):
                self._opened(number, route, relay, now)
            case inputs.ChannelFailed(number, error):
                self._opening_failed(number, error, now)
            case inputs.ChannelEnded(number):
                self._ended(number, now)
            case inputs.Registered(_, request, seconds):
                self._registered(request, min(seconds, MAX_GRANT), now)
            case inputs.Refused(_, request, error):
                self._asked.pop(request, None)
                self._refused(request, error, now)
            case inputs.RequestFailed(_, request, error):
                self._asked.pop(request, None)
                if self._round is not None and self._answers(request):
                    self._abort_round(self._round, error, now)
            case inputs.SameRelay(_, request, host):
                self._asked.pop(request, None)
                self._same_relay(request, host, now)
            case inputs.Confirmed(_, request):
                if asked := self._asked.pop(request, None):
                    asked[1].key = asked[2]
            case inputs.Offered(number, offer):
                self._offered(number, offer)
            case inputs.RegistrationEnded(number, name, reason):
                if (channel := self._admit_notice(number, now)) is not None:
                    self._registration_ended(channel, name, reason, now)
            case inputs.Draining(number, seconds):
                if (channel := self._admit_notice(number, now)) is not None and channel.retry_after is None:
                    channel.retry_after = seconds
                    self._out.append(events.RelayDraining(host=self.host, retry_seconds=seconds))
            case inputs.BetterRouteFound(route):
                self._move_to(route)
            case inputs.NetworkChanged():
                self._out.append(commands.ForgetRoute(network_changed=True))
                self._give_up_successor(now)
                self._check_channels()
            case inputs.CheckChannels():
                self._check_channels()
            case inputs.CheckRefusals():
                self._check_refusals(now)
            case inputs.SessionsChanged(sessions):
                self._sessions = sessions
            case inputs.Due():
                self._due(now)
            case inputs.Stop():
                self._stop()

    def _due(self, now: float) -> None:
        if self._wait_until is not None and now >= self._wait_until:
            self._attempt(PhaseCause.DUE, now)
        for channel in self._channels.values():
            if channel.due is not None and now >= channel.due:
                channel.due = None
                self._waiting_rounds.append(Round(channel, Purpose.RENEW))
        self._next_round(now)

    # --- what is published

    def _unpublish(self, name: str) -> None:
        registration = self.registrations.pop(name)
        if not self.registrations:
            self._stop()
            return
        self._choose_key()
        if registration.over is not None:
            self._out.append(commands.Unregister(registration.over, next(self._requests), name))
            self._lose(registration, Reason.NO_ERROR)

    def _change_string(self, registration: Registration, string: ConnectionString, now: float) -> None:
        registration.string = string
        registration.ask_again(now)
        # Until the relay has answered, it is not known by which key it offers.
        registration.key = None
        self._choose_key()
        self._ask_now(now)

    def _choose_key(self) -> None:
        """Have the next control channels prove the first key that the relay has not refused."""
        if self.registrations:
            key = min(self.registrations.values(), key=lambda one: one.is_refused).key_in_use
            if key != self._key:
                self._key = key
                self._out.append(commands.UseKey(key))

    def _check_refusals(self, now: float) -> None:
        doubtful = [one for one in self.registrations.values() if one.is_doubtful(now)]
        for one in doubtful:
            one.ask_again(now)
        if doubtful:
            self._out.append(events.RefusalsChecked(host=self.host))
            self._ask_now(now)

    def _ask_now(self, now: float) -> None:
        """Have everything registered again soon, whether there is a control channel or not."""
        self._look_again(now)
        if self.phase is Phase.WAITING:
            self._attempt(PhaseCause.DUE, now)

    # --- control channels

    def _attempt(self, cause: PhaseCause, now: float) -> None:
        """Begin an attempt to have a control channel."""
        self.phase = PHASES[self.phase, cause]
        self._began, self._usable_since, self._wait_until = now, None, None
        self._retry_after, self._has_answered = 0.0, False
        self._open(None)

    def _open(self, route: Candidate | None) -> int:
        number = next(self._numbers)
        self._channels[number] = Channel(number, self._make_backoff)
        self._out.append(commands.OpenChannel(number, route))
        return number

    def _opened(self, number: int, route: Candidate, relay: inputs.RelayIdentity, now: float) -> None:
        if (channel := self._channels.get(number)) is None:
            return  # it was given up at the same moment
        self.phase = PHASES[self.phase, PhaseCause.CHANNEL_OPENED]
        channel.move(ChannelCause.OPENED)
        channel.route, channel.relay = route, relay
        self._waiting_rounds.append(Round(channel, Purpose.TAKE_OVER))
        self._next_round(now)

    def _opening_failed(self, number: int, error: HybridRelayError, now: float) -> None:
        if (channel := self._channels.pop(number, None)) is None:
            return
        channel.move(ChannelCause.ENDED)
        if self._is_successor(number):
            self._answer_route(error)
        else:
            self._attempt_failed(PhaseCause.OPENING_FAILED, error, now)

    def _ended(self, number: int, now: float) -> None:
        if (channel := self._channels.pop(number, None)) is None:
            return
        was_current = channel.state is ChannelState.CURRENT
        was_taking_over = channel.state is ChannelState.TAKING_OVER
        channel.move(ChannelCause.ENDED)
        self._forget(channel)
        if was_taking_over:
            self._take_over_failed(channel, _lost(), now)
            return
        if was_current:
            self._close_earlier()
        if not self._has_open_channel():
            self._no_channel_left(channel, now)
        self._next_round(now)

    def _forget(self, channel: Channel) -> None:
        """The channel is over, with what is registered over it and what is asked over it."""
        for registration in self.registrations.values():
            if registration.over == channel.number:
                self._lose(registration, Reason.SESSION_LOST)
        self._asked = {request: what for request, what in self._asked.items() if what[0] != channel.number}
        self._waiting_rounds = deque(one for one in self._waiting_rounds if one.channel is not channel)
        if self._round is not None and self._round.channel is channel:
            self._round = None

    def _lose(self, registration: Registration, reason: Reason) -> None:
        registration.over = None
        self._out.append(events.RegistrationEnded(connection=registration.name, host=self.host, reason=reason))

    def _has_open_channel(self) -> bool:
        return any(one.is_open for one in self._channels.values())

    def _no_channel_left(self, last: Channel, now: float) -> None:
        """The last open control channel has ended."""
        self._retry_after = last.retry_after or 0.0
        # What was good may be what broke: a probe is cheap, and a connection attempt that is not answered is not.
        # A relay that has announced its restart will come back at the same place.
        if not self.is_refused and not self._retry_after:
            self._out.append(commands.ForgetRoute())
        wait = self._wait(PhaseCause.NO_CHANNEL_LEFT, now)
        self._give_up_successor(now)  # to open it may take as long as its deadlines allow
        if not self.is_refused:
            self._out.append(events.ControlChannelLost(host=self.host, retry_seconds=wait))
        self._out.append(commands.ReportChange())

    def _attempt_failed(self, cause: PhaseCause, error: HybridRelayError, now: float) -> None:
        """No control channel could be opened, or nothing could be registered over the only one."""
        # Only before anything has worked is this certainly the operator's mistake. Later, somebody between here and
        # the relay may pose as the relay for a while.
        permanent = not self._has_worked and is_hopeless(error)
        for registration in self.registrations.values():
            if permanent or not registration.is_refused:
                registration.failed(error, now, permanent=permanent)
        self._has_answered = not isinstance(error, RelayUnreachable)
        text, is_news = self._repeated.describe(error), self._repeated.level(now) >= events.Level.WARNING
        self._out.append(commands.ForgetRoute())
        wait = self._wait(cause, now)
        kind: type[events.RelayUnavailable | events.RelayStillUnavailable | events.RelayRejected]
        kind = events.RelayUnavailable if is_news else events.RelayStillUnavailable
        if permanent:
            kind = events.RelayRejected
        self._out.append(kind(host=self.host, reason=error.reason, detail=text, retry_seconds=wait))
        self._out.append(commands.ReportChange())

    def _wait(self, cause: PhaseCause, now: float) -> float:
        """Wait before the next attempt. Returns how long (seconds)."""
        self.phase = PHASES[self.phase, cause]
        took = 0.0
        if self._usable_since is None:
            took = now - self._began
        else:
            self._backoff.succeeded(held_seconds=now - self._usable_since)
        if self._is_hopeless(now):
            # It may have been asked again, and have been out of reach: the back-off counts as well.
            wait = self._backoff.next_wait(at_least=self.asks_again_in(now))
            self._out.append(events.NothingRegistered(host=self.host, retry_seconds=wait))
        else:
            # If the relay is out of reach, sessions that look healthy count too: the loss of a data channel may be
            # detected later than that of the control channel.
            interrupted = self._sessions is inputs.Sessions.INTERRUPTED
            urgent = interrupted or (self._sessions is inputs.Sessions.CONNECTED and not self._has_answered)
            wait = self._backoff.next_wait(
                at_least=self._retry_after, at_most=RESUME_BACKOFF if urgent else None, took_seconds=took
            )
        self._wait_until = now + wait
        return wait

    def _close(self, channel: Channel) -> None:
        was_current = channel.state is ChannelState.CURRENT
        channel.move(ChannelCause.CLOSED_BY_US)
        self._out.append(commands.CloseChannel(channel.number))
        if was_current:
            self._close_earlier()

    def _close_earlier(self) -> None:
        for channel in self._channels.values():
            if channel.state is ChannelState.EARLIER:
                self._close(channel)

    def _close_unused(self) -> None:
        """Close the earlier channels over which nothing is registered any more.

        So does the relay: what it has offered over them and was not answered, it offers again over the current one.
        """
        for channel in self._channels.values():
            if channel.state is ChannelState.EARLIER and not self._over(channel):
                self._close(channel)

    def _check_channels(self) -> None:
        self._out.extend(commands.CheckChannel(one.number) for one in self._channels.values() if one.is_open)

    def _stop(self) -> None:
        for channel in self._channels.values():
            if channel.state is ChannelState.OPENING:
                self._out.append(commands.AbandonChannel(channel.number))
            elif channel.state is not ChannelState.CLOSING:
                self._out.append(commands.CloseChannel(channel.number))
            self._forget(channel)
        self._channels.clear()
        self._wait_until = None
        self._answer_route(None if self._better is None else _given_up(self._better[0]))
        self.phase = PHASES[self.phase, PhaseCause.STOPPED]
        self._out.append(commands.ReportChange())

    # --- a better route

    def _move_to(self, route: Candidate) -> None:
        """Have everything on a better route: first the control channel, then the sessions."""
        self._out.append(events.BetterRouteFound(host=self.host, route=route.route.name))
        current = self._current
        if current is None or current.route is None:
            self._sessions_follow = True
            self._out.append(commands.AnswerRoute())
        elif current.route.route.rank <= route.route.rank:
            self._out.append(commands.AnswerRoute(move_sessions=True))
        else:
            self._better = route, self._open(route)

    def _is_successor(self, number: int) -> bool:
        return self._better is not None and self._better[1] == number

    def _answer_route(self, error: HybridRelayError | None) -> None:
        if self._better is not None:
            self._better = None
            self._out.append(commands.AnswerRoute(error, move_sessions=error is None))

    def _give_up_successor(self, now: float) -> None:
        """Abandon the successor, if there is one. It may have been the last open control channel."""
        if self._better is None:
            return
        channel = self._channels[self._better[1]]
        self._abandon(channel, now)
        self._answer_route(_given_up(self._better[0]))
        if self.phase is Phase.CONNECTED and not self._has_open_channel():
            self._no_channel_left(channel, now)
        self._next_round(now)

    def _abandon(self, channel: Channel, now: float) -> None:
        may_have_taken = channel.state is ChannelState.TAKING_OVER
        channel.move(ChannelCause.ABANDONED)
        del self._channels[channel.number]
        self._out.append(commands.AbandonChannel(channel.number))
        self._forget(channel)
        if may_have_taken:
            self._look_again(now)

    # --- registering

    def _next_round(self, now: float) -> None:
        """Begin the next round of requests, if none is being made. One channel registers at a time."""
        while self._round is None and self._waiting_rounds:
            following = self._waiting_rounds.popleft()
            channel = following.channel
            if following.purpose is Purpose.TAKE_OVER:
                if channel.state is not ChannelState.TAKING_OVER:
                    continue
            elif not channel.is_serving:
                continue
            self._round = following
            following.until = now + MAX_GRANT
            following.pending.extend(self.registrations.values())
            channel.is_stale = False
            self._next_request(following, now)

    def _next_request(self, current: Round, now: float) -> None:
        channel = current.channel
        only_renew = channel.state is ChannelState.EARLIER
        while current.pending:
            registration = current.pending.popleft()
            if self.registrations.get(registration.name) is not registration:
                continue  # it was withdrawn meanwhile
            if registration.asks_again_in(now) > 0 or (only_renew and registration.over != channel.number):
                continue
            self._request(current, registration, registration.string)
            return
        self._round = None
        self._finish_round(current, now)
        self._next_round(now)

    def _request(self, current: Round, registration: Registration, string: ConnectionString) -> None:
        number, channel = next(self._requests), current.channel.number
        current.request = number, registration, string
        current.has_asked = True
        self._asked[number] = channel, registration, string.key
        self._out.append(commands.Register(channel, number, registration.name, string))

    def _answers(self, request: int) -> bool:
        return self._round is not None and self._round.request is not None and self._round.request[0] == request

    def _take_answer(self, request: int) -> tuple[Round, Registration, ConnectionString] | None:
        """What a request was about; None if it does not matter any more."""
        current = self._round
        if current is None or current.request is None or current.request[0] != request:
            return None
        _, registration, string = current.request
        current.request = None
        return current, registration, string

    def _registered(self, request: int, seconds: float, now: float) -> None:
        if (answered := self._take_answer(request)) is None:
            return
        current, registration, string = answered
        channel = current.channel
        if (rejection := current.rejection) is not None:  # the earlier string is still good
            current.rejection = None
            current.temporary = current.temporary or rejection
            self._falls_back(registration, rejection)
        assert channel.route is not None
        if registration.over != channel.number:
            self._out.append(
                events.RegistrationSucceeded(
                    connection=registration.name, host=self.host, route=channel.route.route.name
                )
            )
        registration.succeeded(channel.number, channel.relay, string)
        current.until = min(current.until, now + seconds)
        self._next_request(current, now)

    def _refused(self, request: int, error: HybridRelayError, now: float) -> None:
        if (answered := self._take_answer(request)) is None:
            return
        current, registration, _ = answered
        if current.rejection is None and registration.earlier is not None and isinstance(error, AuthorizationError):
            # The string was changed while this connector runs. What has worked until now may still be good.
            current.rejection = error
            self._request(current, registration, registration.earlier)
            return
        current.rejection = None
        if registration.over in (None, current.channel.number):
            self._registration_failed(registration, error, now)
        else:
            # Over an earlier channel it is registered still. If that ends, the relay says so there.
            self._out.append(
                events.RegistrationStays(
                    connection=registration.name, host=self.host, reason=error.reason, detail=str(error)
                )
            )
        if error.reason is Reason.SUPERSEDED:
            # The relay knows a later channel, and accepts none but that.
            self._abort_round(current, error, now)
            return
        if not registration.is_refused:
            current.temporary = current.temporary or error
        self._next_request(current, now)

    def _registration_failed(self, registration: Registration, error: HybridRelayError, now: float) -> None:
        """The relay does not register it, or does so no longer."""
        permanent = error.reason.is_permanent
        if registration.over is not None:
            self._lose(registration, error.reason)
        registration.failed(error, now, permanent=permanent)
        kind: type[events.RegistrationRefused | events.RegistrationFailed]
        kind = events.RegistrationRefused if permanent else events.RegistrationFailed
        self._out.append(
            kind(
                connection=registration.name,
                host=self.host,
                reason=error.reason,
                detail=str(error),
                remedy=error.remedy or "",
            )
        )

    def _falls_back(self, registration: Registration, error: HybridRelayError) -> None:
        if registration.rejected is not registration.string:  # it is tried again and again
            registration.rejected = registration.string
            self._out.append(
                events.EarlierKeyUsed(
                    connection=registration.name,
                    host=self.host,
                    reason=error.reason,
                    detail=str(error),
                    remedy=error.remedy or "",
                )
            )

    def _same_relay(self, request: int, host: str, now: float) -> None:
        """At this relay, the two registrations would displace each other for ever."""
        if (answered := self._take_answer(request)) is None:
            return
        current, registration, _ = answered
        error = ConfigurationError(
            f"{registration.name}: {self.host} is the same relay as {host}",
            reason=Reason.SUPERSEDED,
            remedy="name each relay once in Endpoint",
        )
        if registration.over is not None:
            self._lose(registration, error.reason)
        registration.failed(error, now, permanent=True)
        self._out.append(events.RelayNamedTwice(connection=registration.name, host=self.host, other_host=host))
        self._next_request(current, now)

    def _finish_round(self, done: Round, now: float) -> None:
        """Everything was asked."""
        channel, temporary = done.channel, done.temporary
        self._choose_key()
        wait = min((done.until - now) * RENEW_AFTER, self.asks_again_in(now))
        if temporary is not None:
            wait = min(wait, channel.retry.next_wait())
        if done.purpose is Purpose.TAKE_OVER:
            if temporary is not None and not self._over(channel):
                self._take_over_failed(channel, temporary, now)
                return
            self._took_over(channel, now)
        channel.schedule(now, max(MIN_RENEWAL_SECONDS, wait))
        self._out.append(commands.ReportChange())
        self._close_unused()
        if self._is_hopeless(now):
            # Nothing is left to be done over it, unless the connector answers that refusals are to be checked.
            if done.has_asked:
                channel.due = now
            else:
                self._close(channel)

    def _took_over(self, channel: Channel, now: float) -> None:
        """The channel is the current one from now on."""
        if (before := self._current) is not None:
            before.move(ChannelCause.REPLACED)
        channel.move(ChannelCause.TOOK_OVER)
        if self._usable_since is None:
            self._usable_since = now
        self._repeated.succeeded()
        self._has_worked = self._has_worked or bool(self._over(channel))
        if self._is_successor(channel.number):
            self._answer_route(None)
        if self._sessions_follow and channel.route is not None:
            self._sessions_follow = False
            self._out.append(commands.MoveSessions(channel.route))

    def _abort_round(self, current: Round, error: HybridRelayError, now: float) -> None:
        """Nothing more can be registered over this channel."""
        channel, self._round = current.channel, None
        if error.reason is Reason.SUPERSEDED:
            self._out.append(commands.RenewInstance(channel.number))
        if current.purpose is Purpose.TAKE_OVER:
            self._take_over_failed(channel, error, now)
            return
        self._out.append(events.RenewalFailed(host=self.host, reason=error.reason, detail=str(error)))
        if channel.is_serving:
            self._close(channel)
        self._next_round(now)

    def _take_over_failed(self, channel: Channel, error: HybridRelayError, now: float) -> None:
        """Nothing could be registered over a new channel."""
        if channel.state is ChannelState.TAKING_OVER:
            self._abandon(channel, now)
        else:
            self._look_again(now)
        was_successor = self._is_successor(channel.number)
        if was_successor:
            self._answer_route(error)
        if not self._has_open_channel():
            if was_successor:
                self._no_channel_left(channel, now)
            else:
                self._retry_after = channel.retry_after or 0.0
                self._attempt_failed(PhaseCause.NO_CHANNEL_LEFT, error, now)
        self._next_round(now)

    def _look_again(self, now: float) -> None:
        for channel in self._channels.values():
            channel.look_again(now)

    # --- what the relay says unasked

    def _offered(self, number: int, offer: control.Offer) -> None:
        if number not in self._channels:
            return
        registration = self.registrations.get(offer.connection)
        if registration is None or registration.is_refused:
            self._out.append(commands.DeclineOffer(number, offer, Reason.UNKNOWN_CONNECTION))
        else:
            self._out.append(commands.OpenDataChannel(number, offer, registration.key))

    def _admit_notice(self, number: int, now: float) -> Channel | None:
        """The channel over which a message came; None if it does not matter, or there were too many."""
        if (channel := self._channels.get(number)) is None:
            return None
        if channel.admit_notice(now, MAX_NOTICES + len(self.registrations)):
            return channel
        if channel.state is not ChannelState.CLOSING:
            self._out.append(events.RelayTalksTooMuch(host=self.host))
            if channel.state is ChannelState.TAKING_OVER:
                self._take_over_failed(channel, _lost(), now)
            else:
                self._close(channel)
        return None

    def _registration_ended(self, channel: Channel, name: str, reason: Reason, now: float) -> None:
        registration = self.registrations.get(name)
        is_latest = [one for one in self._channels.values() if one.is_open][-1] is channel
        if registration is None or registration.over != channel.number:
            if is_latest:  # an answer that came just before has not been seen yet
                self._look_again(now)
            return  # else it was taken over by the channel that is to replace this one, as it should
        if reason is Reason.SUPERSEDED and not is_latest:
            return  # it is just being taken over; if that fails, everything is looked at again
        self._registration_failed(registration, failure_error(name, control.Failed(0, reason)), now)
        self._out.append(commands.ReportChange())
        self._look_again(now)
        if self._is_hopeless(now) and channel.is_serving:
            channel.due = now  # it is closed then, as nothing is asked over it


def _lost() -> RelayUnreachable:
    return RelayUnreachable("the control channel to the relay was lost", reason=Reason.SESSION_LOST)


def _given_up(route: Candidate) -> RelayUnreachable:
    return RelayUnreachable(f"{route.route.name} was given up", reason=Reason.CANCELLED)
