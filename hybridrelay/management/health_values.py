"""The responses of ``/livez`` and ``/readyz``, of the relay, the connector and forward. Pure."""

from __future__ import annotations

from .values import Value

__all__ = ["CheckValue", "LiveValue", "ReadyValue"]


class CheckValue(Value, frozen=True):
    """A condition for a program to be ready."""

    #: Of a relay: ``serving``, ``registry``, ``certificate`` or ``accepting``. Of a connector: ``accepting``,
    #: ``registered`` or ``target``. Of a forward: ``accepting``, ``listening`` or ``session``.
    name: str
    ok: bool
    #: What to do if the condition is not met.
    remedy: str | None = None
    #: Why the condition is not met, if known.
    detail: str | None = None
    #: The hybrid connection that the condition concerns, if any.
    connection: str | None = None


class ReadyValue(Value, frozen=True):
    """Whether the program is ready, which it is if all checks are ok."""

    ready: bool
    checks: tuple[CheckValue, ...]

    @classmethod
    def of(cls, checks: tuple[CheckValue, ...]) -> ReadyValue:
        """Make the value from the results of all checks."""
        return cls(ready=all(one.ok for one in checks), checks=checks)


class LiveValue(Value, frozen=True):
    """The response of a program that is alive: its event loop works."""

    alive: bool
