"""The table of operations that show the state of a connector or forward, and their handlers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import attrs
import msgspec
import trio

from .._loop_lag import LoopLag
from .._statistics import open_descriptors
from .._threads import run_in_thread
from .._version import __version__
from ..connectivity.snapshot import MAX_LISTED
from ..http import Handler, Reply, Request, RequestError, Response, Route, Router
from ..management.description import Description
from ..management.exposition import MEDIA_TYPE
from ..management.health_values import LiveValue, ReadyValue
from ..management.openapi import openapi_document
from ..management.operations import Operation, Operations, Text
from ..management.parsing import parse_query_untrusted
from ..management.request_ids import REQUEST_ID, new_request_id, with_request_id
from ..security import ManagementRole
from .metrics import endpoint_metrics
from .problems import endpoint_problems
from .readiness import endpoint_checks
from .sources import StatusSource
from .values import StatusQuery, StatusValue

__all__ = ["OPERATIONS", "Monitored", "StatusCall", "make_router"]

T = TypeVar("T")

_JSON = "application/json"
#: The pause after a snapshot, as a multiple of the time that taking it took.
_REST = 9


@attrs.define(eq=False)
class Monitored:
    """The program whose status is served."""

    source: StatusSource
    #: Set when the program is stopping.
    stop: trio.Event
    #: When it was started (seconds since 1970).
    started_at: float
    lag: LoopLag = attrs.field(factory=LoopLag)
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    #: When the next snapshot may be taken, on Trio's clock.
    _free_at: float = attrs.field(default=-math.inf, init=False)

    async def paced(self, make: Callable[[], T]) -> T:
        """Call `make`, which takes a snapshot, when no other snapshot is being taken and the pause after the last is
        over.

        The pause after a snapshot is nine times as long as taking it took. So snapshots never use more than a tenth
        of the event loop's time, however many requests there are. (Over TCP, any user of this machine can send
        requests.)
        """
        async with self._turn:
            await trio.sleep_until(self._free_at)
            began = trio.current_time()
            try:
                return make()
            finally:
                now = trio.current_time()
                self._free_at = now + _REST * (now - began)


@attrs.define(eq=False)
class StatusCall:
    """A request whose query has been checked."""

    monitored: Monitored
    query: msgspec.Struct | None
    #: Set by the handler if the response has to have the status 503.
    is_unavailable: bool = False


async def _get_status(call: StatusCall) -> StatusValue:
    query, monitored = call.query, call.monitored
    assert isinstance(query, StatusQuery)
    limit = query.limit

    def make() -> StatusValue:
        # Take as many sessions as possible, because even one that will not be listed may have a problem.
        snapshot = monitored.source.snapshot(max_sessions=MAX_LISTED, max_streams=limit)
        role, stopping = monitored.source.role, monitored.stop.is_set()
        return StatusValue.of(
            snapshot,
            role=role,
            version=__version__,
            started_at=monitored.started_at,
            stopping=stopping,
            limit=limit,
            problems=endpoint_problems(snapshot, role=role, stopping=stopping),
        )

    return await monitored.paced(make)


async def _get_metrics(call: StatusCall) -> Text:
    descriptors = await run_in_thread(open_descriptors)
    monitored = call.monitored

    def make() -> str:
        return endpoint_metrics(
            monitored.source.snapshot(max_sessions=0, max_streams=0),
            role=monitored.source.role,
            version=__version__,
            loop_lag=monitored.lag.snapshot(),
            descriptors=descriptors,
        )

    return Text(await monitored.paced(make), MEDIA_TYPE)


async def _get_live(call: StatusCall) -> LiveValue:
    await trio.lowlevel.checkpoint()
    return LiveValue(alive=True)


async def _get_ready(call: StatusCall) -> ReadyValue:
    monitored = call.monitored
    targets = await monitored.source.check_targets()
    snapshot = await monitored.paced(partial(monitored.source.snapshot, max_sessions=0, max_streams=0))
    checks = endpoint_checks(snapshot, targets, role=monitored.source.role, stopping=monitored.stop.is_set())
    value = ReadyValue.of(checks)
    call.is_unavailable = not value.ready
    return value


#: All operations, except ``/openapi.json``. Everyone who can connect may call them.
OPERATIONS: Operations[StatusCall] = Operations(
    [
        Operation(
            id="getStatus",
            method="GET",
            path="/v1/status",
            summary="Get the status of this program: its problems, hybrid connections, sessions and streams.",
            role=ManagementRole.VIEWER,
            handler=_get_status,
            query=StatusQuery,
            answer=StatusValue,
        ),
        Operation(
            id="getMetrics",
            method="GET",
            path="/metrics",
            summary="Get the metrics of this program in the text format of Prometheus.",
            role=ManagementRole.VIEWER,
            handler=_get_metrics,
            answer=Text,
            media_type=MEDIA_TYPE,
        ),
        Operation(
            id="getLive",
            method="GET",
            path="/livez",
            summary="Check whether this program is alive.",
            role=ManagementRole.VIEWER,
            handler=_get_live,
            answer=LiveValue,
        ),
        Operation(
            id="getReady",
            method="GET",
            path="/readyz",
            summary="Check whether this program is ready: a connector if each hybrid connection is registered at "
            "a relay, and a forward if each listens and has a session.",
            role=ManagementRole.VIEWER,
            handler=_get_ready,
            answer=ReadyValue,
            may_be_unavailable=True,
        ),
    ]
)


def make_router(monitored: Monitored) -> Router[Handler]:
    """Return the routes: the operations of the table, and ``/openapi.json``."""
    description = Description(
        partial(
            openapi_document,
            OPERATIONS,
            version=__version__,
            title="hybridrelay status",
            description="Shows the state of a connector or forward. See docs/status.md.",
            has_callers=False,
        )
    )

    async def describe(request: Request) -> Reply:
        await trio.lowlevel.checkpoint()
        return Response(200, await description.read(), (("Content-Type", _JSON), (REQUEST_ID, new_request_id())))

    routes = [Route(row.method, row.path, _handler_of(row, monitored)) for row in OPERATIONS]
    return Router([*routes, Route("GET", "/openapi.json", describe)])


def _handler_of(operation: Operation[StatusCall], monitored: Monitored) -> Handler:
    async def handle(request: Request) -> Reply:
        request_id = new_request_id()
        try:
            query = None if operation.query is None else parse_query_untrusted(request.query, operation.query)
        except RequestError as exc:
            return with_request_id(exc.failure, request_id)
        call = StatusCall(monitored, query)
        answer = await operation.handler(call)
        if isinstance(answer, Text):
            body, media_type = answer.text.encode(), answer.media_type
        else:
            body, media_type = msgspec.json.encode(answer), _JSON
        headers = (("Content-Type", media_type), ("Cache-Control", "no-store"), (REQUEST_ID, request_id))
        return Response(503 if call.is_unavailable else 200, body, headers)

    return handle
