"""The operations for monitoring: metrics, liveness and readiness."""

from __future__ import annotations

from contextlib import suppress

import trio

from ..errors import StateError
from ..relay.claims import OpenClaim
from ..relay.snapshot import RelaySnapshot
from ..security import ManagementRole
from .calls import Call
from .exposition import MEDIA_TYPE
from .health_values import CheckValue, LiveValue, ReadyValue
from .metrics import relay_metrics
from .operations import Operation, Text

__all__ = ["HEALTH_ROWS", "readiness"]


async def _get_metrics(call: Call) -> Text:
    claims: tuple[OpenClaim, ...] = ()
    with suppress(StateError):  # a registry that cannot be read does not keep back the other metrics
        claims = await call.managed.read_store(lambda store: store.open_claims())
    return Text(await relay_metrics(call.managed.relay, claims), MEDIA_TYPE)


async def _get_live(call: Call) -> LiveValue:
    await trio.lowlevel.checkpoint()
    return LiveValue(alive=True)


async def _get_ready(call: Call) -> ReadyValue:
    try:
        await call.managed.read_store(lambda store: store.data_version())
        is_readable = True
    except StateError:
        is_readable = False
    checks = readiness(call.managed.relay.snapshot(), is_readable=is_readable, now=call.managed.clock())
    value = ReadyValue.of(checks)
    call.is_unavailable = not value.ready
    return value


def readiness(snapshot: RelaySnapshot, *, is_readable: bool, now: float) -> tuple[CheckValue, ...]:
    """Return the results of the checks.

    Args:
        snapshot: the state of the relay.
        is_readable: whether the registry can be read.
        now: the time, in seconds since 1970.
    """
    is_valid = all(now < one.expires_at for one in snapshot.certificates)
    accepts = snapshot.draining_since is None
    return (
        _check("serving", "wait until the relay has started, or start it again", ok=snapshot.is_running),
        _check("registry", "check the log to see why the registry cannot be read", ok=is_readable),
        _check("certificate", "renew the certificate of --tls-certificate", ok=is_valid),
        _check("accepting", "hybridrelay drain --undo", ok=accepts),
    )


def _check(name: str, remedy: str, *, ok: bool) -> CheckValue:
    return CheckValue(name=name, ok=ok, remedy=None if ok else remedy)


#: The operations of this module, a part of the table of all operations.
HEALTH_ROWS: tuple[Operation[Call], ...] = (
    Operation(
        id="getMetrics",
        method="GET",
        path="/metrics",
        summary="Get the metrics of this relay in the text format of Prometheus.",
        role=ManagementRole.VIEWER,
        handler=_get_metrics,
        answer=Text,
        media_type=MEDIA_TYPE,
    ),
    Operation(
        id="getLive",
        method="GET",
        path="/livez",
        summary="Check whether the relay is alive.",
        role=ManagementRole.VIEWER,
        handler=_get_live,
        answer=LiveValue,
    ),
    Operation(
        id="getReady",
        method="GET",
        path="/readyz",
        summary="Check whether the relay is ready: it serves, can read its registry, has a valid certificate, and "
        "is not draining.",
        role=ManagementRole.VIEWER,
        handler=_get_ready,
        answer=ReadyValue,
        may_be_unavailable=True,
    ),
)
