"""The life cycle of one session at the client, from the search for a connector until the session has ended. Pure.

`Machine.handle` takes one input and returns commands, to be executed in order, and events, to be published.
`inputs.py` and `commands.py` list them; `states.py` has the transition table. Time is an argument. A connector has
*greeted* when its HELLO has arrived. The rules:

1. The machine searches for a connector. A connector that does not greet on its data channel, or does not accept the
   session, is avoided, and the search continues with another one, as long as the search allows it.
2. A session that loses its data channel resumes over another one to the same instance of the connector, through any
   relay that leads there. Attempts are made, with pauses between them, until the session's resume deadline ends it.
3. The relay of the lost data channel is tried first, unless the connector had not greeted on that data channel: then
   that relay may be unable to carry data, and is tried after the others.
4. No attempt is made while all relays have asked not to be contacted.
5. A failed attempt ends the session only if `resumption.outcome_of_failure` says that further attempts are pointless.
6. A session keeps its current data channel until it has moved to the new one. There is one move at a time. If the
   current channel is lost during the move, the first data channel that opens is used.
7. A move has succeeded when the connector has greeted on the new data channel, and has failed otherwise.
8. A session has exactly one outcome, and exactly one event publishes it, whatever ended the session.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import HybridRelayError, RelayUnreachable
from ...events.client import (
    ConnectorPassedOver,
    SessionInterrupted,
    SessionLost,
    SessionMoved,
    SessionNotMoved,
    SessionNotOpened,
    SessionNotResumedYet,
)
from ...events.endpoint import SessionEnded, SessionOpened, SessionResumed
from ...protocol.reasons import Reason
from ..relays.listeners import ListenerSearch
from . import commands, inputs
from .commands import Output
from .resumption import Pauses, is_absence, outcome_of_failure
from .states import TRANSITIONS, Cause, Outcome, State, outcome_of

__all__ = ["Machine"]


class Machine:
    """One session.

    Args:
        connection: the hybrid connection's name, for events.
        search: knows which connectors are avoided; those that fail are added.
        random: returns a number in [0, 1).
    """

    def __init__(self, connection: str, search: ListenerSearch, random: Callable[[], float]) -> None:
        self._connection = connection
        #: The session's id in events; empty until the connector has greeted.
        self._activity_id = ""
        self._search = search
        self._pauses = Pauses(random)
        self._out: list[Output] = []
        self.state = State.SEARCHING
        #: Whether the connector has greeted.
        self.was_opened = False
        #: How the session ended; None before that.
        self.outcome: Outcome | None = None
        #: The data channel that the session was given last.
        self.channel: inputs.Channel | None = None
        #: While the session resumes: whether an attempt has reached a relay, but not the session's connector.
        self.is_connector_absent = False
        self._attempts = 0
        #: The attempt to find a connector, or to resume; None if there is none.
        self._attempt: int | None = None
        #: The attempt to open the data channel for a move, and the cause of the move. The attempt is None once the
        #: data channel is open.
        self._move_attempt: int | None = None
        self._move: inputs.MoveCause | None = None
        self._resume_at = 0.0
        self._same_relay_first = True
        #: The last failure to resume or to move that was published, as text.
        self._published = ""
        #: The outcome that the session will have, if this machine is closing it.
        self._verdict: Outcome | None = None

    @property
    def deadline(self) -> float | None:
        """When to pass in `Due`, on the clock of `now`; None if it is not needed."""
        return self._resume_at if self.state is State.LOST and self._verdict is None else None

    def handle(self, given: inputs.Input, now: float) -> list[Output]:
        """Take one input.

        Args:
            given: the input. After the session has ended, inputs have no effect.
            now: seconds, on any monotonic clock.

        Returns:
            Commands to execute and events to publish, in order.
        """
        self._out = []
        if self.state is not State.ENDED:
            self._handle(given, now)
        return self._out

    def _handle(self, given: inputs.Input, now: float) -> None:
        match given:
            case inputs.Start():
                self._begin_search()
            case inputs.ChannelOpened(attempt, channel):
                self._opened(attempt, channel, now)
            case inputs.AttemptFailed(attempt, error, tried_every_relay):
                self._attempt_failed(attempt, error, now, tried_every_relay=tried_every_relay)
            case inputs.Greeted(activity_id):
                self._greeted(activity_id)
            case inputs.Rejected(error):
                self._rejected(error, now)
            case inputs.ChannelLost():
                self._lost(now)
            case inputs.MoveWanted(cause):
                self._move_wanted(cause)
            case inputs.MoveWithdrawn():
                self._move_withdrawn()
            case inputs.SessionOver(reason, text, by_connector):
                outcome = self._verdict or outcome_of(reason, by_connector=by_connector)
                self._end(outcome, reason, text)
            case inputs.Cancelled():
                self._end(Outcome.CANCELLED, Reason.CANCELLED, "")
            case inputs.Due(relays_away_until):
                self._due(relays_away_until, now)

    def _go(self, cause: Cause) -> None:
        self.state = TRANSITIONS[self.state, cause]

    def _next_attempt(self) -> int:
        self._attempts += 1
        return self._attempts

    # --- finding a connector

    def _begin_search(self) -> None:
        self._attempt = self._next_attempt()
        self._out.append(commands.Search(self._attempt))

    def _rejected(self, error: HybridRelayError, now: float) -> None:
        channel = self.channel
        assert channel is not None
        self._out.append(commands.TryRelayLater())
        if not self._search.failed(channel.instance, error, now):
            self._not_opened(error)
            return
        self._out.append(
            ConnectorPassedOver(
                connection=self._connection, instance=channel.instance, reason=error.reason, detail=str(error)
            )
        )
        self._go(Cause.PASSED_OVER)
        self._begin_search()

    def _not_opened(self, error: HybridRelayError) -> None:
        self._end(Outcome.NOT_OPENED, error.reason, str(error))
        self._out.append(commands.Fail(error))

    # --- data channels

    def _opened(self, attempt: int, channel: inputs.Channel, now: float) -> None:
        if attempt not in (self._attempt, self._move_attempt):
            return  # it was abandoned
        searching = self.state is State.SEARCHING
        if attempt == self._move_attempt:
            self._move_attempt = None
            self._abandon_attempt()
        else:
            self._attempt = None
            self._fail_move(_overtaken())
        self._go(Cause.CHANNEL_OPENED)
        self.channel = channel
        self._pauses.given(now)
        self._out.append(commands.RunSession(attempt) if searching else commands.UseChannel(attempt))

    def _attempt_failed(self, attempt: int, error: HybridRelayError, now: float, *, tried_every_relay: bool) -> None:
        if attempt == self._move_attempt:
            self._move_failed(error)
        elif attempt == self._attempt:
            self._attempt = None
            if self.state is State.SEARCHING:
                self._not_opened(error)
            else:
                self._not_resumed(error, now, tried_every_relay=tried_every_relay)

    def _greeted(self, activity_id: str) -> None:
        channel = self.channel
        assert channel is not None
        before, self._activity_id = self.state, activity_id
        self._go(Cause.GREETED)
        self.is_connector_absent, self._published = False, ""
        if before is State.OPENING:
            self.was_opened = True
            self._out.append(
                SessionOpened(
                    connection=self._connection,
                    activity_id=self._activity_id,
                    label=channel.label,
                    serial=channel.serial,
                    route=channel.route,
                    rendezvous=channel.rendezvous,
                )
            )
        elif before is State.REATTACHING:
            self._out.append(
                SessionResumed(
                    connection=self._connection,
                    activity_id=self._activity_id,
                    label=channel.label,
                    route=channel.route,
                    rendezvous=channel.rendezvous,
                )
            )
        elif self._move is not None:
            self._out.append(
                SessionMoved(
                    connection=self._connection,
                    activity_id=self._activity_id,
                    label=channel.label,
                    route=channel.route,
                    cause=self._move.value,
                    rendezvous=channel.rendezvous,
                )
            )
        if self._move is not None:
            self._answer_move(None)

    # --- the loss of a data channel

    def _lost(self, now: float) -> None:
        channel = self.channel
        assert channel is not None
        greeted = self.state in (State.CONNECTED, State.MOVING)
        if self._move_attempt is None:
            self._fail_move(_lost_at_once())  # in case the session was moving to this data channel
        self._go(Cause.CHANNEL_LOST)
        if greeted:
            self._out.append(
                SessionInterrupted(
                    connection=self._connection,
                    activity_id=self._activity_id,
                    label=channel.label,
                    route=channel.route,
                )
            )
        self._out.append(commands.CheckRelay())
        self._same_relay_first = greeted
        if not greeted:
            self._out.append(commands.TryRelayLater())
        self._resume_at = self._pauses.after_loss(now)

    def _due(self, relays_away_until: float, now: float) -> None:
        if self.state is not State.LOST or now < self._resume_at or self._verdict is not None:
            return
        if relays_away_until > now:
            self._resume_at = self._pauses.spread(relays_away_until)
            return
        self._go(Cause.DUE)
        self._attempt = self._next_attempt()
        self._out.append(commands.Resume(self._attempt, same_relay_first=self._same_relay_first))

    def _not_resumed(self, error: HybridRelayError, now: float, *, tried_every_relay: bool) -> None:
        self._go(Cause.ATTEMPT_FAILED)
        self.is_connector_absent = self.is_connector_absent or is_absence(error)
        self._verdict = outcome_of_failure(error, tried_every_relay=tried_every_relay)
        if self._verdict is not None:
            self._abandon_move()
            reason = error.reason if self._verdict is Outcome.IDENTITY_CHANGED else Reason.SESSION_LOST
            self._out.append(commands.CloseSession(reason, f"the session cannot be resumed: {error}"))
            return
        if (text := str(error)) != self._published:  # many attempts fail in the same way
            self._published = text
            self._out.append(
                SessionNotResumedYet(
                    connection=self._connection, activity_id=self._activity_id, reason=error.reason, detail=text
                )
            )
        self._resume_at = self._pauses.after_failure(now)

    # --- moves

    def _move_wanted(self, cause: inputs.MoveCause) -> None:
        if self.state is not State.CONNECTED:
            self._out.append(commands.AnswerMove(_overtaken()))
            return
        self._go(Cause.MOVE_WANTED)
        self._move, self._move_attempt = cause, self._next_attempt()
        self._out.append(commands.OpenForMove(self._move_attempt, cause))

    def _move_failed(self, error: HybridRelayError) -> None:
        """Handle a data channel for a move that could not be opened."""
        assert self._move is not None
        self._move_attempt = None
        if self.state is State.MOVING:
            self._go(Cause.MOVE_FAILED)
            if (text := f"{self._move.value}: {error}") != self._published:  # many attempts fail in the same way
                self._published = text
                self._out.append(
                    SessionNotMoved(
                        connection=self._connection,
                        activity_id=self._activity_id,
                        cause=self._move.value,
                        reason=error.reason,
                        detail=str(error),
                    )
                )
        self._answer_move(error)

    def _move_withdrawn(self) -> None:
        """Give up the move, because no caller waits for it. If the session already has the new data channel, it keeps
        it."""
        if self._move_attempt is not None:
            self._abandon_move()
            if self.state is State.MOVING:
                self._go(Cause.MOVE_FAILED)
            self._move = None

    def _fail_move(self, error: HybridRelayError) -> None:
        """End the move with an error: another data channel was opened first, or the new one was lost at once."""
        if self._move is not None:
            self._abandon_move()
            self._answer_move(error)

    def _answer_move(self, error: HybridRelayError | None) -> None:
        self._move = None
        self._out.append(commands.AnswerMove(error))

    # --- the end

    def _abandon_move(self) -> None:
        if self._move_attempt is not None:
            self._out.append(commands.Abandon(self._move_attempt))
            self._move_attempt = None

    def _abandon_attempt(self) -> None:
        if self._attempt is not None:
            self._out.append(commands.Abandon(self._attempt))
            self._attempt = None

    def _end(self, outcome: Outcome, reason: Reason, text: str) -> None:
        self._abandon_attempt()
        self._fail_move(_overtaken())
        self._go(Cause.ENDED)
        self.outcome = outcome
        label = "" if self.channel is None else self.channel.label
        if not self.was_opened:
            self._out.append(
                SessionNotOpened(
                    connection=self._connection, label=label, outcome=outcome.value, reason=reason, detail=text
                )
            )
            return
        kind = SessionEnded if outcome.is_in_order else SessionLost
        self._out.append(
            kind(
                connection=self._connection,
                activity_id=self._activity_id,
                label=label,
                outcome=outcome.value,
                reason=reason,
                detail=text,
            )
        )


def _overtaken() -> RelayUnreachable:
    return RelayUnreachable("the session lost its data channel, or has ended", reason=Reason.SESSION_LOST)


def _lost_at_once() -> RelayUnreachable:
    return RelayUnreachable("the new data channel was lost before the connector greeted", reason=Reason.SESSION_LOST)
