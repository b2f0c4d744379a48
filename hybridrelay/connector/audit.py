"""The audit log: who reached what, when, how much, and how it ended. One line for each stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import attrs

from ..protocol.reasons import Reason
from ..security import HostPort, PeerIdentity

logger = logging.getLogger("hybridrelay.audit")


@attrs.define
class AuditEntry:
    """One stream that an application asked for; ends in exactly one line."""

    connection: str
    peer: PeerIdentity
    target: HostPort
    began: float
    _clock: Callable[[], float]

    def refused(self, reason: Reason, *, detail: str = "") -> None:
        """It was not opened."""
        self._write("refused", reason, 0, 0, detail)

    def finished(self, to_client: int, to_target: int, reason: Reason) -> None:
        """It was open and has ended; `Reason.NO_ERROR` where both directions were complete."""
        self._write("closed" if reason is Reason.NO_ERROR else "broken", reason, to_client, to_target, "")

    def _write(self, event: str, reason: Reason, to_client: int, to_target: int, detail: str) -> None:
        fields = {
            "event": event,
            "connection": self.connection,
            "label": self.peer.label,
            "serial": self.peer.serial,
            "target": str(self.target),
            "reason": reason.slug,
            "bytes_to_client": to_client,
            "bytes_to_target": to_target,
            "seconds": round(self._clock() - self.began, 3),
            **({"detail": detail} if detail else {}),
        }
        # Labels are printable by construction; quoting keeps one with a space from looking like two fields.
        line = " ".join(
            f"{key}={value!r}" if isinstance(value, str) else f"{key}={value}" for key, value in fields.items()
        )
        logger.info("%s", line, extra={"fields": fields})


class AuditLog:
    """Begins entries."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def begin(self, connection: str, peer: PeerIdentity, target: HostPort) -> AuditEntry:
        return AuditEntry(connection, peer, target, self._clock(), self._clock)
