"""The audit log: which application reached which target, when, over which route, how much, and how it ended.

Each stream that an application asks for has one line when it is opened, before the target is dialed, and exactly one
when it is over, whatever ended it. Both carry the same id. A stream that lives longer than a day has one more each
day, so that a log of any age shows what is open. docs/operating.md describes the lines for their readers.
"""

from __future__ import annotations

import enum
import itertools
import logging
import secrets
import time
from collections.abc import Callable

import attrs
import trio

from ..mux import Bridged, Party
from ..protocol.reasons import Reason
from ..security import HostPort, PeerIdentity

logger = logging.getLogger("hybridrelay.audit")

#: After how long an open stream is logged again (seconds).
REPEAT_SECONDS = 24 * 3600.0
#: How often streams of that age are looked for (seconds).
_CHECK_SECONDS = 600.0


class Ending(enum.StrEnum):
    """How one direction of a stream ended."""

    #: The sending side ended it, and all of it, the end of file included, was passed on.
    FINISHED = "finished"
    #: The application reads no more, and has not reset its connection.
    STOPPED_BY_APPLICATION = "stopped-by-application"
    RESET_BY_APPLICATION = "reset-by-application"
    RESET_BY_TARGET = "reset-by-target"
    #: The session or the connector ended.
    LOST = "lost"


@attrs.frozen
class Outcome:
    """How a stream that was open ended."""

    #: ``closed``, ``closed-with-reset`` or ``broken``.
    event: str
    to_target: Ending
    to_client: Ending
    reason: Reason


def outcome_of(bridged: Bridged) -> Outcome:
    """How to report a bridge between an application's stream and its target.

    A stream is *closed* if both directions finished. It is *closed with a reset* if one of them finished and the side
    that had received all of it then reset the connection, or read no more, instead of ending its own direction: many
    programs end like that. Everything else is *broken*.
    """
    broke = {
        Party.NOBODY: Ending.FINISHED,
        Party.LOCAL: Ending.RESET_BY_TARGET,
        Party.PEER: Ending.RESET_BY_APPLICATION,
        Party.SESSION: Ending.LOST,
        Party.CALLER: Ending.LOST,
    }[bridged.ended_by]
    to_target = Ending.FINISHED if bridged.received_all else broke
    to_client = Ending.FINISHED if bridged.sent_all else broke
    if bridged.peer_stopped and not bridged.sent_all and broke is not Ending.RESET_BY_TARGET:
        to_client = Ending.STOPPED_BY_APPLICATION
    if to_target is to_client is Ending.FINISHED:
        return Outcome("closed", to_target, to_client, Reason.NO_ERROR)
    goodbye_of_target = to_target is Ending.FINISHED and to_client is Ending.RESET_BY_TARGET
    goodbye_of_application = (to_target is Ending.FINISHED and to_client is Ending.STOPPED_BY_APPLICATION) or (
        to_client is Ending.FINISHED and to_target is Ending.RESET_BY_APPLICATION
    )
    event = "closed-with-reset" if goodbye_of_target or goodbye_of_application else "broken"
    # When the bridge was cancelled, it is this connector that goes away.
    reason = Reason.GOING_AWAY if bridged.ended_by is Party.CALLER else bridged.reason
    return Outcome(event, to_target, to_client, reason)


@attrs.define(eq=False)
class AuditEntry:
    """One stream that an application asked for."""

    #: Unique, also among runs of the connector: it joins the lines of one stream.
    id: str
    connection: str
    peer: PeerIdentity
    target: HostPort
    #: On the log's clock.
    began: float
    _log: AuditLog
    #: How far the stream has come; None while it is not open.
    progress: Callable[[], Bridged] | None = None
    #: When it was last logged.
    told: float = attrs.field(init=False)
    _is_over: bool = attrs.field(default=False, init=False)

    @told.default
    def _told(self) -> float:
        return self.began

    def opened(self, *, session: int, stream: int, route: str) -> None:
        """It was asked for; nothing was done about it yet."""
        self._write("open", {"session": session, "stream": stream, "route": route})

    def refused(self, reason: Reason, *, detail: str = "") -> None:
        """It is over without having reached the target."""
        self._end("refused", {"reason": reason.slug}, 0, 0, {"detail": detail} if detail else {})

    def ended(self, bridged: Bridged) -> None:
        """It was open, and is over."""
        outcome = outcome_of(bridged)
        said = {"reason": outcome.reason.slug, "to_target": outcome.to_target, "to_client": outcome.to_client}
        self._end(outcome.event, {key: str(value) for key, value in said.items()}, bridged.sent, bridged.received, {})

    def repeat(self, now: float) -> None:
        """It has been open for a long time and continues."""
        if self.progress is not None:
            self.told = now
            so_far = self.progress()
            self._write("still-open", self._amounts(so_far.sent, so_far.received))

    def _end(self, event: str, why: dict[str, str], sent: int, received: int, more: dict[str, str]) -> None:
        if not self._is_over:
            self._is_over = True
            self._log.forget(self)
            self._write(event, {**why, **self._amounts(sent, received), **more})

    def _amounts(self, sent: int, received: int) -> dict[str, object]:
        seconds = round(self._log.clock() - self.began, 3)
        return {"bytes_to_client": sent, "bytes_to_target": received, "seconds": seconds}

    def _write(self, event: str, more: dict[str, object]) -> None:
        fields = {
            "event": event,
            "id": self.id,
            "connection": self.connection,
            "label": self.peer.label,
            "serial": self.peer.serial,
            "target": str(self.target),
            **more,
        }
        # Labels are printable by construction; quoting keeps one with a space from looking like two fields.
        line = " ".join(
            f"{key}={value!r}" if isinstance(value, str) else f"{key}={value}" for key, value in fields.items()
        )
        logger.info("%s", line, extra={"fields": fields})


class AuditLog:
    """Begins entries, and knows those that are not over.

    Args:
        clock: seconds that never run backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._open: set[AuditEntry] = set()

    def begin(self, connection: str, peer: PeerIdentity, target: HostPort) -> AuditEntry:
        """An entry for a stream that was asked for; it has to come to an end by `refused` or `ended`."""
        entry = AuditEntry(f"{self._run}-{next(self._numbers)}", connection, peer, target, self.clock(), self)
        self._open.add(entry)
        return entry

    def forget(self, entry: AuditEntry) -> None:
        """The entry is over."""
        self._open.discard(entry)

    def repeat(self) -> None:
        """Write a line for each stream that nothing was written about for `REPEAT_SECONDS`."""
        now = self.clock()
        for entry in sorted(self._open, key=lambda one: one.began):
            if now - entry.told >= REPEAT_SECONDS:
                entry.repeat(now)

    async def keep_repeating(self) -> None:
        """`repeat` now and then, until cancelled."""
        while True:
            await trio.sleep(_CHECK_SECONDS)
            self.repeat()
