"""Finding the problems of a connector or forward, with a remedy for each. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import islice

from ..audit.record import SinkProblem
from ..connectivity.snapshot import (
    ConnectionSnapshot,
    EndpointSnapshot,
    FailureSnapshot,
    RelaySnapshot,
    RelayState,
    SessionSnapshot,
    SessionState,
)
from .values import ProblemStatus, Role

__all__ = ["MAX_PROBLEMS", "endpoint_problems", "why_denied", "why_not_connected", "why_not_registered"]

#: The maximum number of problems that are listed.
MAX_PROBLEMS = 100
_CHANGE_POLICY = (
    "use what the policy allows (hybridrelay policy show), or have this rule changed; no restart is needed"
)
_UNKEPT = {"key": "its new key", "identity": "its renewed identity", "update": "its last update"}
_SEE_LOG = "look in this program's log for what it is waiting for"


def endpoint_problems(snapshot: EndpointSnapshot, *, role: Role, stopping: bool) -> tuple[ProblemStatus, ...]:
    """Return the problems, the most important first; at most `MAX_PROBLEMS`.

    Args:
        snapshot: the state of the program.
        role: the role of the program.
        stopping: whether the program is stopping.
    """
    found: list[ProblemStatus] = []
    if stopping:
        found.append(
            ProblemStatus(
                code="stopping",
                detail="the program is stopping: it accepts no new connections, and lets open ones finish",
                remedy="start it again when it has ended",
            )
        )
    of_connections = _of_connector if role == "connector" else _of_client
    found += islice(of_connections(snapshot.connections, role, stopping=stopping), MAX_PROBLEMS)
    found += islice(_of_credentials(snapshot.connections), MAX_PROBLEMS)
    found += (ProblemStatus(code=one.code, detail=one.detail, remedy=one.remedy) for one in snapshot.unapplied)
    found += islice(_of_unkept(snapshot.connections), MAX_PROBLEMS)
    found += islice(_of_updates(snapshot.connections), MAX_PROBLEMS)
    found += islice(_of_audit(snapshot.audit), MAX_PROBLEMS)
    found += islice(_of_sessions(snapshot.sessions), MAX_PROBLEMS)
    return tuple(found[:MAX_PROBLEMS])


def why_denied(connection: ConnectionSnapshot) -> tuple[str, str]:
    """Return which rule of the policy is against a hybrid connection, and what to do."""
    effect = (
        "its streams or datagrams are refused" if connection.is_registered else "it is not registered at any relay"
    )
    return f"{connection.name} is denied by policy, so {effect}: {connection.denial}", (
        f"{connection.denial_remedy}; no restart is needed" if connection.denial_remedy else _CHANGE_POLICY
    )


def why_not_registered(connection: ConnectionSnapshot) -> tuple[str, str]:
    """Return why a hybrid connection is registered nowhere, and what to do."""
    if connection.denial:
        return why_denied(connection)
    failures = [(relay.host, relay.failure) for relay in connection.relays if relay.failure is not None]
    if not failures:
        return "no relay has answered yet", _SEE_LOG
    return (
        "; ".join(f"{host}: {failure.detail}" for host, failure in failures),
        "; ".join(dict.fromkeys(failure.remedy or _SEE_LOG for _, failure in failures)),
    )


def why_not_connected(connection: ConnectionSnapshot) -> tuple[str, str]:
    """Return why a client has no session for new streams, and what to do."""
    failure = connection.failure
    if failure is None:
        return "no session has been opened yet", _SEE_LOG
    return failure.detail, failure.remedy or _SEE_LOG


def _of_connector(
    connections: Sequence[ConnectionSnapshot], role: Role, *, stopping: bool
) -> Iterator[ProblemStatus]:
    if stopping:  # a connector that is stopping has withdrawn its registrations
        return
    for connection in connections:
        if connection.denial:
            detail, remedy = why_denied(connection)
            yield ProblemStatus(code="denied-by-policy", detail=detail, remedy=remedy, connection=connection.name)
    for connection in connections:
        if not connection.is_registered and not connection.denial:
            detail, remedy = why_not_registered(connection)
            yield ProblemStatus(
                code="not-registered",
                detail=f"{connection.name} is not registered at any relay: {detail}",
                remedy=remedy,
                connection=connection.name,
            )
    for connection in connections:
        if connection.target_failure is not None:
            yield ProblemStatus(
                code="target-unhealthy",
                detail=f"{connection.name} cannot reach its target {connection.target}: "
                f"{connection.target_failure.detail}",
                remedy=connection.target_failure.remedy,
                connection=connection.name,
            )
    for connection in connections:
        for relay in connection.relays if connection.is_registered else ():
            if relay.state is not RelayState.REGISTERED:
                yield _relay_failed(connection.name, relay)


def _relay_failed(name: str, relay: RelaySnapshot) -> ProblemStatus:
    failure = relay.failure or FailureSnapshot(reason="", detail="it has not answered yet", remedy=_SEE_LOG)
    return ProblemStatus(
        code="relay-failed",
        detail=f"{name} is not registered at {relay.host}: {failure.detail}",
        remedy=failure.remedy or _SEE_LOG,
        connection=name,
        relay=relay.host,
    )


def _of_client(connections: Sequence[ConnectionSnapshot], role: Role, *, stopping: bool) -> Iterator[ProblemStatus]:
    for connection in connections:
        if role == "forward" and not connection.listening and not stopping:
            yield ProblemStatus(
                code="not-listening",
                detail=f"{connection.name} has no local port yet",
                remedy="wait until the program has connected, or check its log to see why it has not",
                connection=connection.name,
            )
        if connection.left_out:
            yield ProblemStatus(
                code="ports-left-out",
                detail=f"{connection.name} has no local port at {', '.join(connection.left_out)}",
                remedy="see forward.ports-left-out or forward.own-port-not-opened in its log; restart it when the "
                "ports are free",
                connection=connection.name,
            )
        # A program that opens streams itself needs no session until it asks for one.
        if not connection.is_connected and (role == "forward" or connection.failure is not None):
            detail, remedy = why_not_connected(connection)
            yield ProblemStatus(
                code="no-session",
                detail=f"{connection.name} has no session for new connections: {detail}",
                remedy=remedy,
                connection=connection.name,
            )


def _of_credentials(connections: Sequence[ConnectionSnapshot]) -> Iterator[ProblemStatus]:
    for connection in connections:
        for one in connection.credentials:
            if not one.is_problem:
                continue
            what = f"the identity {one.label} ({one.serial})" if one.label else f"the issuer ({one.serial})"
            until = dt.datetime.fromtimestamp(int(one.expires_at), dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
            why = "" if one.failure is None else f", and could not be renewed: {one.failure.detail}"
            yield ProblemStatus(
                code="identity-expires",
                detail=f"{what} in the connection string of {connection.name} is valid until {until}{why}",
                remedy=one.remedy,
                connection=connection.name,
            )


def _of_unkept(connections: Sequence[ConnectionSnapshot]) -> Iterator[ProblemStatus]:
    for connection in connections:
        unkept = connection.unkept
        if unkept is not None:
            what = " and ".join(_UNKEPT[part] for part in unkept.parts)
            yield ProblemStatus(
                code="string-not-kept",
                detail=f"a restart would lose what was received for the connection string of {connection.name}: "
                f"{what}. It is only in memory: {unkept.detail}",
                remedy=unkept.remedy,
                connection=connection.name,
            )


def _of_updates(connections: Sequence[ConnectionSnapshot]) -> Iterator[ProblemStatus]:
    for connection in connections:
        update = connection.update
        if update is not None and update.state != "used":
            yield ProblemStatus(
                code="update-not-used",
                detail=f"update {update.sequence} of {connection.name} is not used: {update.detail}",
                remedy="correct this, or push another update: hybridrelay updates push --help",
                connection=connection.name,
            )


def _of_audit(sinks: Sequence[SinkProblem]) -> Iterator[ProblemStatus]:
    for one in sinks:
        effect = "new streams are refused" if one.is_required else "its records wait"
        yield ProblemStatus(
            code="audit-failed",
            detail=f"{one.text}; {effect}",
            remedy=one.remedy,
        )


def _of_sessions(sessions: Sequence[SessionSnapshot]) -> Iterator[ProblemStatus]:
    for session in sessions:
        if session.state is SessionState.RESUMING:
            yield ProblemStatus(
                code="session-resuming",
                detail=f"session {session.id} of {session.connection} ({session.label}) has lost its data channel "
                f"over {session.relay}; streams waiting for another one: {session.streams}",
                remedy="wait: it resumes, or its streams are reset, within the resume deadline",
                connection=session.connection,
                relay=session.relay,
            )
