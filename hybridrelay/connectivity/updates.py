"""Receives updates of a connection string from its relays, and carries out what `update_machine` decides."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import attrs
import trio

from .._nursery import FlatNursery
from .._value import Value
from ..errors import AuthorizationError, ConfigurationError, HybridRelayError, RelayUnreachable, RendezvousError
from ..events.endpoint import OlderStringRestored, UpdateNotUsed, UpdateReceived
from ..events.stream import EventStream
from ..protocol import control
from ..protocol.control import UpdateState
from ..security import ConnectionString
from ..security.names import normal_host
from .control import ControlChannel
from .endpoint import RelayEndpoint
from .link import RelayLink
from .new_keys import ANSWER_SECONDS, NO_FILE, KeepString, check_token
from .snapshot import UpdateStatus
from .update_machine import (
    AnswerRelay,
    Command,
    MachineState,
    ReportNotUsed,
    StoreString,
    TryRelays,
    UpdateMachine,
    UseUpdate,
)

__all__ = ["TRIAL_SECONDS", "FloorOf", "Updates"]

#: Returns the sequence of the last update of a connection string that was used on this machine; 0 if none was, or if
#: it is not known. Must not raise.
FloorOf: TypeAlias = Callable[[ConnectionString], Awaitable[int]]

#: How long to try to reach a relay of an update (seconds). If none can be reached, the earlier ones stay in use.
TRIAL_SECONDS = 30.0
#: How many updates of a hybrid connection from one relay are handled in quick succession, and after how many seconds
#: another one is. A relay sends up to two, and repeats them once a minute. Each relay has an allowance of its own, so
#: that one that sends without end does not keep out the updates of others.
MAX_AT_ONCE = 8
SECONDS_EACH = 5.0
#: The same reason for not using an update is not reported again before this time has passed (seconds).
_REPORT_SECONDS = 3600.0
#: Reports with changing reasons: the shortest time between two (seconds).
_REPORT_MIN_SECONDS = 20.0


@attrs.frozen
class _Delivered(Value):
    """An update that waits to be handled; see `Updates.received` for the fields."""

    channel: ControlChannel
    endpoint: RelayEndpoint
    message: control.Update

    async def answer(self, state: UpdateState, detail: str) -> None:
        """Answer the relay. If the answer cannot be sent, the relay delivers the update again."""
        message = control.UpdateKept(self.message.connection, self.message.sequence, state, detail)
        with trio.move_on_after(ANSWER_SECONDS), suppress(RelayUnreachable):
            await self.channel.send(message)


class Updates:
    """Handles the updates for one hybrid connection.

    One update is handled at a time. If several updates of a relay wait, only the latest is handled, so that a relay
    that an attacker controls can neither fill the memory, nor keep out the updates of other relays.

    Args:
        string: returns the connection string that is in use.
        use: uses a connection string from now on.
        why_not: returns why a connection string is not allowed, because of the policy of this machine or because of
            another connection string; empty if it is allowed.
        new_link: makes a link to a relay, for a trial. Raises `ConfigurationError` if the relay cannot be used.
        keep: stores a connection string; None means that changes are only in memory.
        floor: see `FloorOf`; None means that nothing is known.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
        changing: held while a changed connection string is stored and used. New keys hold the same lock, so that
            neither stores or uses a string without the change that the other makes at the same time.
    """

    def __init__(
        self,
        string: Callable[[], ConnectionString],
        *,
        use: Callable[[ConnectionString], object],
        why_not: Callable[[ConnectionString], str],
        new_link: Callable[[RelayEndpoint], RelayLink],
        keep: KeepString | None,
        floor: FloorOf | None,
        clock: Callable[[], float],
        events: EventStream,
        changing: trio.Lock,
    ) -> None:
        self._string = string
        self._use = use
        self._why_not = why_not
        self._new_link = new_link
        self._keep = keep
        self._floor = floor
        self._clock = clock
        self._events = events
        self._changing = changing
        self._machine = UpdateMachine()
        self._lock = trio.Lock()
        #: The latest update of each relay that waits to be handled, by the relay's host name.
        self._waiting: dict[str, _Delivered] = {}
        #: For each relay that has delivered one, by host name: how many more could be handled when the last one had
        #: arrived, and when that was (Trio's clock). The hosts are those of connection strings, so there are few.
        self._allowed: dict[str, tuple[float, float]] = {}
        #: What was reported last, and when.
        self._reported: tuple[int, UpdateState, str] | None = None
        self._reported_at = -math.inf
        self._has_warned = False

    def status(self) -> UpdateStatus | None:
        """Return the last update, for status and metrics; None if there is none."""
        used = self._string().update_sequence
        if (not_used := self._machine.not_used) is not None and not_used[0] > used:
            sequence, state, detail = not_used
            return UpdateStatus(sequence=sequence, state=state.value, detail=detail)
        return UpdateStatus(sequence=used, state="used", detail="") if used else None

    def may_handle(self, host: str) -> bool:
        """Count an update that has arrived from the relay at `host`. Returns False if it is to be ignored, because
        too many arrive from there: the relay delivers it again."""
        now = trio.current_time()
        allowed, at = self._allowed.get(host, (MAX_AT_ONCE, now))
        allowed = min(MAX_AT_ONCE, allowed + (now - at) / SECONDS_EACH)
        may = allowed >= 1
        self._allowed[host] = allowed - may, now
        return may

    async def received(self, channel: ControlChannel, endpoint: RelayEndpoint, message: control.Update) -> None:
        """Handle an update that has arrived over a control channel of the relay at `endpoint`. If an earlier update
        of this relay still waits, this one takes its place, and this returns at once: the relay delivers the earlier
        one again.

        Takes up to `TRIAL_SECONDS`, and the time for writing a file; and before that, as much for each other relay.
        If cancelled, the update may be stored and not used yet; the next start uses it.
        """
        given = _Delivered(channel, endpoint, message)
        try:
            # Without a checkpoint: of two updates that arrive together, the first holds the lock, so the second does
            # not replace it.
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            host = endpoint.host
            is_waiting = host in self._waiting
            self._waiting[host] = given
            if is_waiting:
                return  # the task that waits already handles it
            try:
                await self._lock.acquire()
            finally:
                given = self._waiting.pop(host)
        try:
            answer = await self._handle(given)
        finally:
            self._lock.release()
        if answer is not None:
            await given.answer(answer.state, answer.detail)

    async def _handle(self, given: _Delivered) -> AnswerRelay | None:
        """Handle an update. Returns the answer that is left to send; None if it was sent, or if none is due."""
        string, message = self._string(), given.message
        if message.connection != string.entity_path:
            return None
        try:
            document = base64.b64decode(message.document, validate=True)
        except binascii.Error:
            return None  # the message would not have been decoded
        floor = 0 if self._floor is None else await self._floor(string)
        self._warn_if_older(string, floor)
        try:
            async with self._changing:
                commands = self._machine.delivered(
                    self._string(),
                    message.sequence,
                    document,
                    floor=floor,
                    now=self._clock(),
                    why_not=self._why_not,
                )
                next_step = await self._carry_out(commands, given)
            if isinstance(next_step, TryRelays):  # takes a while, in which the string may get another key
                wanted = next_step.string
                why = "" if _is_named(wanted, given.channel, given.endpoint) else await self._try(wanted)
                async with self._changing:
                    next_step = await self._carry_out(self._machine.tried(self._string(), why), given)
                    assert not isinstance(next_step, TryRelays)
            return next_step
        finally:
            if self._machine.state is not MachineState.IDLE:  # cancelled
                self._machine.give_up()

    async def _carry_out(self, commands: list[Command], given: _Delivered) -> TryRelays | AnswerRelay | None:
        """Carry out commands. Returns the one that is left to the caller: `TryRelays`, or an answer after which
        nothing more changes. The caller sends the answer after it has released the lock, so that a relay that does
        not read it delays no other relay."""
        answer = None
        while commands:
            match commands.pop(0):
                case AnswerRelay(state, detail) as command:
                    if any(isinstance(later, UseUpdate) for later in commands):
                        await given.answer(state, detail)  # now, because afterwards this may not be a relay any more
                    else:
                        answer = command
                case TryRelays() as command:
                    return command
                case StoreString(before, after):
                    why = NO_FILE if self._keep is None else await self._keep(before, after)
                    commands += self._machine.stored(self._string(), why)
                case UseUpdate(string, changed, why):
                    self._use_update(string, changed, why, given.endpoint.host)
                case ReportNotUsed(state, detail):
                    self._report(given.message, given.endpoint.host, state, detail)
        return answer

    def _use_update(self, string: ConnectionString, changed: tuple[str, ...], why_not_kept: str, host: str) -> None:
        name, sequence = string.entity_path, string.update_sequence
        try:
            self._use(string)
        except ConfigurationError as exc:  # the policy, or what else is served, has changed at this moment
            event = UpdateNotUsed(connection=name, host=host, sequence=sequence, state="refused", detail=str(exc))
            self._events.publish(event)
            return
        self._events.publish(
            UpdateReceived(
                connection=name,
                host=host,
                sequence=sequence,
                changed=changed,
                kept=not why_not_kept,
                detail=why_not_kept,
            )
        )

    def _report(self, message: control.Update, host: str, state: UpdateState, detail: str) -> None:
        now, report = trio.current_time(), (message.sequence, state, detail)
        wait = _REPORT_SECONDS if report == self._reported else _REPORT_MIN_SECONDS
        if now - self._reported_at < wait:
            return
        self._reported, self._reported_at = report, now
        self._events.publish(
            UpdateNotUsed(
                connection=message.connection, host=host, sequence=message.sequence, state=state.value, detail=detail
            )
        )

    def _warn_if_older(self, string: ConnectionString, floor: int) -> None:
        if floor > string.update_sequence and not self._has_warned:
            self._has_warned = True
            self._events.publish(
                OlderStringRestored(connection=string.entity_path, sequence=string.update_sequence, used=floor)
            )

    # --- the trial

    async def _try(self, string: ConnectionString) -> str:
        """Return why none of the relays of a connection string can be reached; empty if one can."""
        failures: dict[str, str] = {}
        reached = False

        async def try_one(endpoint: RelayEndpoint) -> None:
            nonlocal reached
            try:
                why = await self._reach(endpoint, string)
            except HybridRelayError as exc:
                why = str(exc)
            failures[endpoint.host] = why
            if not why:
                reached = True
                nursery.cancel_scope.cancel()

        endpoints = RelayEndpoint.all_from(string, clock=self._clock)
        with trio.move_on_after(TRIAL_SECONDS):
            async with FlatNursery() as nursery:
                for endpoint in endpoints:
                    nursery.start_soon(try_one, endpoint)
        if reached:
            return ""
        told = [f"{one.host}: {failures.get(one.host, 'no answer')}" for one in endpoints]
        return f"none of its relays can be used, so the earlier ones stay in use: {'; '.join(told)}"

    async def _reach(self, endpoint: RelayEndpoint, string: ConnectionString) -> str:
        """Return why a relay does not accept the key of a connection string; empty if it does.

        Raises:
            HybridRelayError: it cannot be reached, or is another relay.
        """
        link = self._new_link(endpoint)
        async with FlatNursery() as nursery:
            channel = await link.start_control(nursery)
            try:
                await check_token(channel, string, endpoint.host, self._clock())
                why = ""
            except AuthorizationError as exc:
                why = str(exc)
            except RendezvousError:
                why = ""  # the relay has accepted the key before it refuses for another reason, such as a quota
            nursery.cancel_scope.cancel()
        return why


def _is_named(wanted: ConnectionString, channel: ControlChannel, endpoint: RelayEndpoint) -> bool:
    """Return whether a connection string names the relay of an open control channel, so that no trial is needed."""
    pin, _ = channel.relay
    if wanted.relay_pins and pin not in wanted.relay_pins:
        return False
    if bool(wanted.relay_pins) != bool(endpoint.pins):
        return False
    return any(
        normal_host(one.host) == normal_host(endpoint.host) and dict(one.ports) == dict(endpoint.ports)
        for one in wanted.endpoints
    )
