"""Keeping a connector's hybrid connections registered at one relay. Pure.

`Machine.handle` takes one input and returns commands, to be executed in order, and events, to be published.
`inputs.py` and `commands.py` list them; `states.py` has the transition tables. Time is an argument.

The machine consists of parts, which append their commands and events to one list: the attempts to open a control
channel (`attempts.py`), the control channels (`channel.py`), the requests over them (`rounds.py`), the move to a
better route (`upgrade.py`), and what is registered (`registrations.py`). This module contains what concerns several
of them.

There is one control channel, the *current* one, except while the connector moves to a better route. Then the machine
opens a *successor* before it closes the current channel. The successor has a higher generation, so when it registers
a hybrid connection, the relay moves the registration to it; after the last one, the relay closes the earlier channel.
The listener is thus registered at every moment. The rules:

1. Every control channel is served until it ends, whether it is the current one or not: offers arrive over all of
   them.
2. Only one channel registers at a time. The current one renews the registrations, and an earlier one renews those
   that the relay did not let the current one take over.
3. The end of a channel or of a registration counts as a loss only if nothing has replaced it.
4. A successor that fails changes nothing, unless it has already taken over a registration. The current channel cannot
   take that back, since the relay accepts no lower generation, so it is closed, too, and another one is opened as
   after any loss.
5. When the current channel ends, earlier ones are closed, so that the next channel registers everything again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...connectivity.backoff import Backoff
from ...connectivity.discovery import Candidate
from ...connectivity.refusals import failure_error
from ...errors import HybridRelayError, RelayUnreachable
from ...events.connector import RelayTooManyMessages, RenewalFailed
from ...events.endpoint import RelayDraining
from ...protocol import control
from ...protocol.reasons import Reason
from ...security import ConnectionString
from . import commands, inputs
from .attempts import Attempts
from .channel import MAX_NOTICES, Channel, Channels
from .commands import Output
from .registrations import Registrations
from .rounds import Round, RoundPurpose, Rounds
from .states import PHASES, ChannelState, Phase, PhaseCause
from .upgrade import Upgrade

__all__ = ["MIN_RENEWAL_SECONDS", "RENEW_AFTER", "Machine"]

#: Registrations are renewed after this fraction of the time that the relay grants.
RENEW_AFTER = 0.7
#: The shortest time between two renewals, whatever the relay grants (seconds).
MIN_RENEWAL_SECONDS = 1.0


class Machine:
    """The registrations at one relay.

    Args:
        host: the relay's host name in the connection string; for events.
        random: returns a number in [0, 1), for the jitter of back-offs.
    """

    def __init__(self, host: str, *, random: Callable[[], float]) -> None:
        self.host = host
        self.phase = Phase.IDLE
        #: The output for the current input.
        self._out: list[Output] = []
        make_backoff = partial(Backoff, random=random)
        self.registrations = Registrations(host, self._out)
        self.channels = Channels(self.registrations, make_backoff, self._out)
        self._attempts = Attempts(host, self.registrations, make_backoff(), self._out)
        self._rounds = Rounds(self.registrations, self._out)
        self._upgrade = Upgrade(host, self.channels, self._out)

    # --- state

    @property
    def deadline(self) -> float | None:
        """When to pass in `inputs.Due`, on the clock of `now`; None if it is not needed."""
        return min((at for at in (self._attempts.due, self.channels.due) if at is not None), default=None)

    @property
    def is_stopped(self) -> bool:
        """Whether the machine has stopped, and returns no more commands."""
        return self.phase is Phase.STOPPED

    @property
    def route(self) -> Candidate | None:
        """The route of the current control channel, if there is one."""
        current = self.channels.current
        return None if current is None else current.route

    # --- inputs

    def handle(self, given: inputs.Input, now: float) -> list[Output]:
        """Take one input.

        Args:
            given: the input. After the machine has stopped, inputs have no effect.
            now: seconds, on any monotonic clock.

        Returns:
            Commands to execute and events to publish, in order.
        """
        self._out.clear()
        if self.phase is not Phase.STOPPED:
            self._dispatch(given, now)
        while self.phase is not Phase.STOPPED and (done := self._rounds.advance(now)) is not None:
            self._finish_round(done, now)
        return self._out.copy()

    def _dispatch(self, given: inputs.Input, now: float) -> None:
        match given:
            case inputs.Start():
                self._attempt(PhaseCause.STARTED, now)
            case inputs.Publish(name, string):
                self.registrations.add(name, string)
                self._register_again(now)
            case inputs.Unpublish(name):
                self._unpublish(name)
            case inputs.StringChanged(name, string):
                self._change_string(name, string, now)
            case inputs.ChannelOpened(number, route, relay):
                self._opened(number, route, relay)
            case inputs.OpeningFailed(number, error):
                self._opening_failed(number, error, now)
            case inputs.ChannelEnded(number):
                self._ended(number, now)
            case inputs.RequestGranted(_, request, seconds):
                self._rounds.registered(request, seconds, now)
            case inputs.RequestRefused(_, request, error):
                if (aborted := self._rounds.refused(request, error, now)) is not None:
                    self._round_aborted(aborted, error, now)
            case inputs.RequestFailed(_, request, error):
                if (aborted := self._rounds.failed(request)) is not None:
                    self._round_aborted(aborted, error, now)
            case inputs.SameRelay(_, request, host):
                self._rounds.same_relay(request, host, now)
            case inputs.Confirmed(_, request):
                self._rounds.confirmed(request)
            case inputs.Offered(number, offer):
                self._offered(number, offer)
            case inputs.EndedByRelay(number, name, reason):
                if (channel := self._admit_notice(number, now)) is not None:
                    self._registration_ended(channel, name, reason, now)
            case inputs.DrainAnnounced(number, seconds):
                if (channel := self._admit_notice(number, now)) is not None and channel.retry_after is None:
                    channel.retry_after = seconds
                    self._out.append(RelayDraining(host=self.host, retry_seconds=seconds))
            case inputs.MoveToRoute(route):
                self._upgrade.begin(route)
            case inputs.RoutesUncertain():
                self._out.append(commands.ForgetRoute(network_changed=True))
                self._give_up_successor(now)
                self.channels.check()
            case inputs.CheckChannels():
                self.channels.check()
            case inputs.CheckRefusals():
                if self.registrations.check_refusals(now):
                    self._register_again(now)
            case inputs.SessionsChanged(sessions):
                self._attempts.sessions = sessions
            case inputs.ReplacementExpected(is_expected):
                self._attempts.expects_replacement = is_expected
            case inputs.Due():
                self._due(now)
            case inputs.Stop():
                self._stop()

    def _due(self, now: float) -> None:
        if self._attempts.due is not None and now >= self._attempts.due:
            self._attempt(PhaseCause.DUE, now)
        for channel in self.channels:
            if channel.due is not None and now >= channel.due:
                channel.due = None
                self._rounds.add(channel, RoundPurpose.RENEW)

    # --- what is to be registered

    def _unpublish(self, name: str) -> None:
        registration = self.registrations.remove(name)
        if not self.registrations:
            self._stop()
        elif registration.over is not None:
            self._out.append(commands.WithdrawRegistration(registration.over, self._rounds.next_number(), name))
            self.registrations.lose(registration, Reason.NO_ERROR)

    def _change_string(self, name: str, string: ConnectionString, now: float) -> None:
        self.registrations.change_string(name, string, now)
        self._register_again(now)

    def _register_again(self, now: float) -> None:
        """Register everything again soon, whether there is a control channel or not."""
        self.channels.register_again(now)
        if self.phase is Phase.WAITING:
            self._attempt(PhaseCause.DUE, now)

    # --- control channels

    def _attempt(self, cause: PhaseCause, now: float) -> None:
        """Begin an attempt to open a control channel."""
        self.phase = PHASES[self.phase, cause]
        self._attempts.begin(now)
        self.channels.open(None)

    def _opened(self, number: int, route: Candidate, relay: inputs.RelayIdentity) -> None:
        if (channel := self.channels.get(number)) is None:
            return  # it was given up at the same moment
        self.phase = PHASES[self.phase, PhaseCause.CHANNEL_OPENED]
        channel.opened(route, relay)
        self._rounds.add(channel, RoundPurpose.TAKE_OVER)

    def _opening_failed(self, number: int, error: HybridRelayError, now: float) -> None:
        if self.channels.ended(number) is None:
            return
        if self._upgrade.is_successor(number):
            self._upgrade.failed(error)
        else:
            self._attempt_failed(PhaseCause.OPENING_FAILED, error, 0.0, now)

    def _ended(self, number: int, now: float) -> None:
        if (channel := self.channels.get(number)) is None:
            return
        before = channel.state
        self.channels.ended(number)
        self._forget(channel)
        if before is ChannelState.OPENING:
            return  # opening it raised an unexpected exception, which ends the connector
        if before is ChannelState.TAKING_OVER:
            self._take_over_failed(channel, _lost(), now)
            return
        if before is ChannelState.CURRENT:
            self.channels.close_earlier()
        if self.channels.latest_open is None:
            self._no_channel_left(channel, now)

    def _forget(self, channel: Channel) -> None:
        """Note that a channel has ended, and with it the registrations and requests over it."""
        self.registrations.lose_all_over(channel.number)
        self._rounds.forget(channel)

    def _no_channel_left(self, last: Channel, now: float) -> None:
        """Wait for the next attempt, because the last open control channel has ended."""
        self.phase = PHASES[self.phase, PhaseCause.NO_CHANNEL_LEFT]
        self._attempts.lost(last.retry_after or 0.0, now)
        self._give_up_successor(now)  # opening it may take a while: a new attempt does not wait for it
        self._out.append(commands.ReportChange())

    def _attempt_failed(self, cause: PhaseCause, error: HybridRelayError, retry_after: float, now: float) -> None:
        """Wait for the next attempt, because no control channel could be opened, or nothing could be registered over
        the only one."""
        self.phase = PHASES[self.phase, cause]
        self._attempts.failed(error, retry_after, now)
        self._out.append(commands.ReportChange())

    def _stop(self) -> None:
        for channel in self.channels:
            self._forget(channel)
        self.channels.stop()
        self._attempts.stop()
        self._upgrade.give_up()
        self.phase = PHASES[self.phase, PhaseCause.STOPPED]
        self._out.append(commands.ReportChange())

    def _give_up_successor(self, now: float) -> None:
        """Abandon the successor, if there is one. It may have been the last open control channel."""
        if (successor := self._upgrade.successor) is None:
            return
        self._abandon(successor, now)
        self._upgrade.give_up()
        if self.phase is Phase.CONNECTED and self.channels.latest_open is None:
            self._no_channel_left(successor, now)

    def _abandon(self, channel: Channel, now: float) -> None:
        may_have_taken = channel.state is ChannelState.TAKING_OVER
        self.channels.abandon(channel)
        self._forget(channel)
        if may_have_taken:
            self.channels.register_again(now)

    # --- registering

    def _finish_round(self, done: Round, now: float) -> None:
        """Finish a round, all of whose requests were answered."""
        channel, temporary = done.channel, done.temporary
        self.registrations.choose_key()
        wait = min((done.until - now) * RENEW_AFTER, self.registrations.asks_again_in(now))
        if temporary is not None:
            wait = min(wait, channel.retry.next_wait())
        if done.purpose is RoundPurpose.TAKE_OVER:
            if temporary is not None and not self.registrations.has_any_over(channel.number):
                self._take_over_failed(channel, temporary, now)
                return
            self._took_over(channel, now)
        channel.schedule(now, max(MIN_RENEWAL_SECONDS, wait))
        self._out.append(commands.ReportChange())
        self.channels.close_unused()
        if self.registrations.are_hopeless(now):
            # The channel is no longer needed, unless the connector answers `ReportChange` with `CheckRefusals`, which
            # happens before the next round. So it is closed after a round in which nothing was requested.
            if done.has_asked:
                channel.due = now
            else:
                self.channels.close(channel)

    def _took_over(self, channel: Channel, now: float) -> None:
        """Make this channel the current one."""
        self.channels.took_over(channel)
        self._attempts.succeeded(now, has_registered=self.registrations.has_any_over(channel.number))
        self._upgrade.took_over(channel)

    def _round_aborted(self, aborted: Round, error: HybridRelayError, now: float) -> None:
        """Give up a round, because nothing more can be registered over its channel."""
        channel = aborted.channel
        if error.reason is Reason.SUPERSEDED:
            self._out.append(commands.RenewInstance(channel.number))
        if aborted.purpose is RoundPurpose.TAKE_OVER:
            self._take_over_failed(channel, error, now)
            return
        self._out.append(RenewalFailed(host=self.host, reason=error.reason, detail=str(error)))
        if channel.is_serving:
            self.channels.close(channel)

    def _take_over_failed(self, channel: Channel, error: HybridRelayError, now: float) -> None:
        """Give up a new channel, because nothing could be registered over it."""
        if channel.state is ChannelState.TAKING_OVER:
            self._abandon(channel, now)
        else:
            self.channels.register_again(now)
        was_successor = self._upgrade.is_successor(channel.number)
        if was_successor:
            self._upgrade.failed(error)
        if self.channels.latest_open is not None:
            return
        if was_successor:
            self._no_channel_left(channel, now)
        else:
            self._attempt_failed(PhaseCause.NO_CHANNEL_LEFT, error, channel.retry_after or 0.0, now)

    # --- unsolicited messages of the relay

    def _offered(self, number: int, offer: control.Offer) -> None:
        if self.channels.get(number) is None:
            return
        registration = self.registrations.get(offer.connection)
        if registration is None or registration.is_refused:
            self._out.append(commands.DeclineOffer(number, offer, Reason.UNKNOWN_CONNECTION))
        else:
            self._out.append(commands.OpenDataChannel(number, offer, registration.key))

    def _admit_notice(self, number: int, now: float) -> Channel | None:
        """Return the channel over which a notice came; None to ignore the notice, because it is late or one too
        many."""
        if (channel := self.channels.get(number)) is None:
            return None
        if channel.admit_notice(now, MAX_NOTICES + len(self.registrations)):
            return channel
        if channel.state is not ChannelState.CLOSING:
            self._out.append(RelayTooManyMessages(host=self.host))
            if channel.state is ChannelState.TAKING_OVER:
                self._take_over_failed(channel, _lost(), now)
            else:
                self.channels.close(channel)
        return None

    def _registration_ended(self, channel: Channel, name: str, reason: Reason, now: float) -> None:
        registration = self.registrations.get(name)
        is_latest = self.channels.latest_open is channel
        if registration is None or registration.over != channel.number:
            if is_latest:  # the answer that registered it may have arrived, but not have been handled yet
                self.channels.register_again(now)
            return  # otherwise the successor has taken it over, as intended
        if reason is Reason.SUPERSEDED and not is_latest:
            return  # the successor is taking it over; if that fails, everything is registered again
        if reason is Reason.SUPERSEDED and self._attempts.expects_replacement:
            self.registrations.lose(registration, reason)  # the other registrar has registered it
            self._out.append(commands.ReportChange())
            return
        self.registrations.failed(registration, failure_error(name, control.Failed(0, reason)), now)
        self._out.append(commands.ReportChange())
        self.channels.register_again(now)
        if self.registrations.are_hopeless(now) and channel.is_serving:
            channel.due = now  # this begins a round without requests, after which the channel is closed


def _lost() -> RelayUnreachable:
    return RelayUnreachable("the control channel to the relay was lost", reason=Reason.SESSION_LOST)
