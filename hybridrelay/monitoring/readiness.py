"""Decides whether a connector, a forward or another program with clients is ready. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..connectivity.snapshot import EndpointSnapshot, TargetCheck
from ..management.health_values import CheckValue
from .problems import why_not_connected, why_not_registered
from .values import Role

__all__ = ["endpoint_checks"]


def endpoint_checks(
    snapshot: EndpointSnapshot, targets: Sequence[TargetCheck], *, role: Role, stopping: bool
) -> tuple[CheckValue, ...]:
    """Return the results of the checks. The program is ready if all of them succeed.

    Args:
        snapshot: the state of the program.
        targets: whether its targets can be reached; empty if this is not checked.
        role: the role of the program.
        stopping: whether the program is stopping.
    """
    checks = [_check("accepting", ("the program is stopping", "start it again when it has ended"), ok=not stopping)]
    for connection in snapshot.connections:
        if role == "connector":
            why = why_not_registered(connection)
            checks.append(_check("registered", why, connection.name, ok=connection.is_registered))
            continue
        if role == "forward":
            why = "it has no local port yet", "wait until the program has connected, or check its log to see why not"
            checks.append(_check("listening", why, connection.name, ok=bool(connection.listening)))
        # A program that opens streams itself needs no session until it asks for one.
        is_connected = connection.is_connected or (role == "client" and connection.failure is None)
        checks.append(_check("session", why_not_connected(connection), connection.name, ok=is_connected))
    required = (sink for sink in snapshot.audit if sink.is_required)
    checks.extend(_check("audit", (sink.text, sink.remedy), ok=False) for sink in required)
    for one in targets:
        why = f"the target {one.target} cannot be reached: {one.detail}", one.remedy
        checks.append(_check("target", why, one.connection, ok=one.ok))
    return tuple(checks)


def _check(name: str, why: tuple[str, str], connection: str | None = None, *, ok: bool) -> CheckValue:
    detail, remedy = why
    if ok:
        return CheckValue(name=name, ok=True, connection=connection)
    return CheckValue(name=name, ok=False, detail=detail, remedy=remedy, connection=connection)
