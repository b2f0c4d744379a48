"""Keeping a session open for an ingress, so that applications rarely have to wait for one."""

from __future__ import annotations

import trio

from ...connectivity.backoff import Backoff
from ...connectivity.refusals import is_final
from ...connectivity.repeated_failure import RepeatedFailure
from ...errors import HybridRelayError, RelayIdentityError
from ...events.base import Level
from ...events.client import ForwardStillUnavailable, ForwardUnavailable, SessionLeaving
from ..client import Client

__all__ = ["keep_connected"]


async def keep_connected(
    client: Client, *, at_start: bool = True, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Keep a session open until cancelled: open another one whenever the current one is lost or about to end.

    `task_status.started` is called when the first attempt has succeeded or failed.

    Args:
        client: opens the sessions.
        at_start: whether the program has not served with another client before.
        task_status: for `nursery.start`.

    Raises:
        AuthorizationError: every relay says that the key or the hybrid connection is not valid, and nothing is open.
            To an application, a closed port is clearer than one that accepts every connection and resets it. If the
            connection string was changed while they answered, they are asked again instead. Other refusals are
            retried even if they look permanent, because a denied identity may be admitted again, or accepted by
            another connector.
        RelayIdentityError: `at_start`, at the first attempt, what answered was not the relay. Later, an attacker in
            the network could end the program in this way, so that it is treated as a temporary failure.
    """
    backoff = Backoff()
    failure = RepeatedFailure()
    first = True
    while True:
        began, string = trio.current_time(), client.connection_string
        try:
            session = await client.connect(patience=0)
        except HybridRelayError as exc:
            if is_final(exc) and (first or not client.open_stream_count):
                if client.connection_string != string:
                    continue
                raise
            if at_start and first and isinstance(exc, RelayIdentityError):
                raise
            now = trio.current_time()
            wait = backoff.next_wait(took_seconds=now - began)
            text, is_news = failure.describe(exc), failure.level(now) >= Level.WARNING
            kind = ForwardUnavailable if is_news else ForwardStillUnavailable
            client.events.publish(
                kind(connection=client.connection, reason=exc.reason, detail=text, retry_seconds=wait)
            )
        else:
            failure.succeeded()
            if first:
                first = False
                task_status.started()
            await session.wait_leaving()
            if session.outcome is None:
                client.events.publish(SessionLeaving(connection=client.connection))
            backoff.succeeded(held_seconds=trio.current_time() - began)
            wait = backoff.next_wait()
        if first:
            first = False
            task_status.started()
        await trio.sleep(wait)
