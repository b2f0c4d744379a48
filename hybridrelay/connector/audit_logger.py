"""Writes the audit log of a connector as lines of its log: which application reached which target, and how it ended.

It subscribes to the connector's events. Each stream that an application requests has one line when it is requested,
before the target is dialed, and exactly one when it has ended, for whatever reason. Both lines have the same id. A
stream that stays open has one more line each day, so that recent logs show every open stream. The lines are evidence,
so their number is not limited. docs/operating.md describes them.
"""

from __future__ import annotations

import logging
from typing import TypeAlias

from ..events.base import Event
from ..events.endpoint import StreamClosed, StreamNotConnected, StreamOpened, StreamStillOpen

__all__ = ["AuditLogger"]

_StreamEvent: TypeAlias = StreamOpened | StreamNotConnected | StreamClosed | StreamStillOpen

logger = logging.getLogger("hybridrelay.audit")


class AuditLogger:
    """A subscriber that writes a line for each event about a stream, to the logger ``hybridrelay.audit``."""

    def __call__(self, event: Event) -> None:
        """Log an event, if it is about a stream."""
        if not isinstance(event, _StreamEvent):
            return
        match event:
            case StreamOpened():
                self._write(event, "open", session=event.session, stream=event.stream)
            case StreamNotConnected():
                detail = {"detail": event.detail} if event.detail else {}
                self._write(event, "refused", reason=event.reason.slug, **_amounts(event), **detail)
            case StreamClosed():
                self._write(
                    event,
                    event.outcome,
                    reason=event.reason.slug,
                    to_target=event.to_target,
                    to_client=event.to_client,
                    **_known(address=event.address),
                    **_amounts(event),
                )
            case StreamStillOpen():
                self._write(event, "still-open", **_known(address=event.address), **_amounts(event))

    def _write(self, event: _StreamEvent, kind: str, **more: str | float) -> None:
        fields: dict[str, str | float] = {
            "event": kind,
            "id": event.activity_id,
            "connection": event.connection,
            "label": event.label,
            "serial": event.serial,
            "target": event.target,
            **_known(route=event.route, client_address=event.client_address),
            **more,
        }
        # Labels are always printable; quoting keeps one with a space from looking like two fields.
        line = " ".join(
            f"{key}={value!r}" if isinstance(value, str) else f"{key}={value}" for key, value in fields.items()
        )
        logger.info("%s", line, extra={"fields": fields})


def _known(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _amounts(event: StreamNotConnected | StreamClosed | StreamStillOpen) -> dict[str, float]:
    to_client, to_target = (
        (0, 0) if isinstance(event, StreamNotConnected) else (event.bytes_to_client, event.bytes_to_target)
    )
    amounts = {"bytes_to_client": to_client, "bytes_to_target": to_target, "seconds": event.seconds}
    if isinstance(event, StreamClosed) and event.datagrams_to_target is not None:
        names = ("datagrams_to_client", "datagrams_to_target", "datagrams_dropped")
        amounts |= {name: getattr(event, name) for name in names}
    return amounts
