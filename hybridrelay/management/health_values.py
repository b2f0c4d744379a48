"""What ``/livez`` and ``/readyz`` answer, at the relay, the connector and forward. Pure."""

from __future__ import annotations

from .values import Value

__all__ = ["CheckValue", "LiveValue", "ReadyValue"]


class CheckValue(Value, frozen=True):
    """One condition for a program to be ready."""

    #: Of a relay: ``serving``, ``registry``, ``certificate`` or ``accepting``. Of a connector: ``accepting``,
    #: ``registered`` or ``target``. Of a forward: ``accepting``, ``listening`` or ``session``.
    name: str
    ok: bool
    #: What to do if it is not met.
    remedy: str | None = None
    #: Why it is not met, if that is known.
    detail: str | None = None
    #: The hybrid connection that it is about, if it is about one.
    connection: str | None = None


class ReadyValue(Value, frozen=True):
    """Whether the program is ready: all checks are ok."""

    ready: bool
    checks: tuple[CheckValue, ...]


class LiveValue(Value, frozen=True):
    """The program is alive: its event loop has answered."""

    alive: bool
