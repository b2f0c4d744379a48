"""Handles one request: checks it against its operation's row, runs the operation, and makes the response."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import attrs
import msgspec

from ..errors import ConfigurationError
from ..http import Handler, Reply, Request, RequestError, Response, StreamedResponse
from ..relay.store.store import NoConnection, QuotaReached, Store
from .auditing import Effect, audit_event
from .callers import Caller
from .credentials import is_still_valid
from .gate import Gate, unauthenticated
from .managed import Managed
from .operations import EVENT_STREAM, Operation, Text
from .parameters import check_param, param_of, valid_params
from .parsing import invalid, parse_query_untrusted
from .problem_kinds import Problem
from .problems import problem, problem_of
from .request_ids import REQUEST_ID, new_request_id, with_request_id

__all__ = ["Call", "handler_of", "perform"]

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)

_JSON = "application/json"
_HEADERS = (("Content-Type", _JSON), ("Cache-Control", "no-store"))
_ETAG = re.compile(r'"([0-9]{1,18})"')


@attrs.define(eq=False)
class Call:
    """A request whose caller, parameters and body have been checked."""

    managed: Managed
    caller: Caller
    request: Request
    params: Mapping[str, str]
    query: msgspec.Struct | None
    body: msgspec.Struct | None
    #: From If-Match: the version that the resource must have. None accepts any.
    version: int | None
    #: From If-Match: the resource must exist, in any version.
    must_exist: bool
    #: From If-None-Match: the resource must not exist yet.
    only_create: bool
    #: Changed by the handler, if there is something to say.
    effect: Effect
    #: Set by the handler: the version of the resource that the response shows.
    shown_version: int | None = None
    #: Set by the handler: the operation has created the resource (201).
    has_created: bool = False
    #: Set by the handler: the response has the status 503, and says what is not available.
    is_unavailable: bool = False

    @property
    def name(self) -> str:
        """The hybrid connection in the path."""
        return self.params["name"]

    @property
    def rule(self) -> str:
        """The authorization rule in the path."""
        return self.params["rule"]

    async def is_admitted(self) -> bool:
        """Return whether the credential of this relay that has identified the caller is still valid; true if it is of
        another kind.

        Raises:
            ConfigurationError: the store cannot be read.
        """
        credential, now = self.caller.credential, self.managed.clock()
        return credential is None or await self.managed.read_store(
            lambda store: is_still_valid(store, credential, now)
        )

    async def change_store(self, function: Callable[[Store], T]) -> T:
        """Call a function that changes the store; see `Managed.change_store`.

        Raises:
            RequestError: 401, because the caller's credential became invalid while this change waited for others.
                Nothing was changed.
        """
        credential, clock = self.caller.credential, self.managed.clock

        def change(store: Store) -> T:
            # All changes are made one after another, so the credential cannot become invalid between these lines.
            if credential is not None and not is_still_valid(store, credential, clock()):
                raise unauthenticated(
                    "the credentials became invalid while the change waited for others; nothing was changed"
                )
            return function(store)

        return await self.managed.change_store(change, caller=self.caller)

    def body_as(self, kind: type[StructT]) -> StructT:
        """Return the body, as the class that the operation's row names."""
        assert isinstance(self.body, kind)
        return self.body

    def query_as(self, kind: type[StructT]) -> StructT:
        """Return the query, as the class that the operation's row names."""
        assert isinstance(self.query, kind)
        return self.query


def handler_of(operation: Operation[Call], managed: Managed, gate: Gate) -> Handler:
    """Return the handler for the route of an operation. `Request.peer` must be a `Peer`."""

    async def handle(request: Request) -> Reply:
        request_id, effect = new_request_id(), Effect()
        caller: Caller | None = None
        # 0 means that there is no response, because the client has disconnected or the relay is stopping.
        status = 0
        try:
            # The caller is known from here on, so the audit log has it even if the request is refused.
            caller = await gate.identify(request)
            body = await gate.receive_body(request, caller)
            async with _turn(operation, managed, caller):
                response = await _serve(operation, managed, request, caller, body, effect)
            status = response.status
            headers = (*response.headers, (REQUEST_ID, request_id))
            if isinstance(response, StreamedResponse):
                return attrs.evolve(response, headers=headers)
            return attrs.evolve(response, headers=headers)
        except RequestError as exc:
            status = exc.failure.status
            return with_request_id(exc.failure, request_id)
        except Exception:
            status = 500
            raise
        finally:
            if operation.is_audited:
                params = valid_params(request.params, request.param)
                managed.events.publish(audit_event(operation.id, params, request, caller, status, request_id, effect))

    return handle


def _turn(
    operation: Operation[Call], managed: Managed, caller: Caller
) -> contextlib.AbstractAsyncContextManager[None]:
    """Wait for the caller's turn. Changes need none, because they take turns in `Call.change_store`."""
    if operation.is_audited or operation.waits:
        return contextlib.nullcontext()
    return managed.turns.take(caller.limit_group, has_scope=not caller.scope.is_everything)


async def perform(
    operation: Operation[Call],
    managed: Managed,
    caller: Caller,
    request: Request,
    *,
    params: Mapping[str, str],
    query: Mapping[str, object] | None = None,
    body: Mapping[str, object] | None = None,
    version: int | None = None,
    only_create: bool = False,
) -> tuple[msgspec.Struct | None, int | None]:
    """Run an operation for a page of the dashboard, with the same authorization and audit log as for a request.

    Args:
        operation: the operation's row.
        managed: the relay.
        caller: who has requested the page.
        request: the request for the page.
        params: the decoded parameters of the operation's path.
        query: the parameters of the operation's query. Text is converted to the types in the row.
        body: the members of the operation's body, converted in the same way.
        version: the version that the resource must have; None accepts any.
        only_create: whether the operation fails if the resource exists.

    Returns:
        The body of the response, and the version of the resource that it shows, if any.

    Raises:
        RequestError: the operation was refused, or has failed.
    """
    request_id, status, effect = new_request_id(), 0, Effect()
    try:
        known = _authorize(
            operation, caller, {name: partial(check_param, name, value) for name, value in params.items()}
        )
        call = Call(
            managed,
            caller,
            request,
            known,
            None if operation.query is None else _convert(query or {}, operation.query, "query", "?"),
            None if operation.body is None else _convert(body or {}, operation.body, "body", ""),
            version,
            version is not None,
            only_create,
            effect,
        )
        answer = await _run(operation, call)
        status = _status_of(call, answer)
        return answer, call.shown_version
    except RequestError as exc:
        status = exc.failure.status
        raise RequestError(with_request_id(exc.failure, request_id)) from exc
    except Exception:
        status = 500
        raise
    finally:
        if operation.is_audited:
            valid = valid_params(params, params.__getitem__)
            managed.events.publish(audit_event(operation.id, valid, request, caller, status, request_id, effect))


def _convert(given: Mapping[str, object], kind: type[StructT], what: str, root: str) -> StructT:
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as exc:
        raise invalid(f"the {what} does not match this operation", exc, root, kind) from exc


async def _serve(
    operation: Operation[Call], managed: Managed, request: Request, caller: Caller, body: bytes, effect: Effect
) -> Response | StreamedResponse:
    params = _authorize(operation, caller, {name: partial(param_of, request, name) for name in request.params})
    # The body is checked before the precondition: a malformed body is an error for every version.
    call = Call(
        managed,
        caller,
        request,
        params,
        None if operation.query is None else parse_query_untrusted(request.query, operation.query),
        _parse_body_untrusted(operation, request, body),
        *_preconditions(operation, request),
        effect,
    )
    if operation.streams is not None and EVENT_STREAM in (request.headers.get("accept") or ""):
        return operation.streams(call)
    answer = await _run(operation, call)
    if answer is None:
        return Response(204, headers=(("Cache-Control", "no-store"),))
    if isinstance(answer, Text):
        return Response(
            200, answer.text.encode(), (("Content-Type", answer.media_type), ("Cache-Control", "no-store"))
        )
    etag = () if call.shown_version is None else (("ETag", f'"{call.shown_version}"'),)
    return Response(_status_of(call, answer), msgspec.json.encode(answer), (*_HEADERS, *etag))


def _status_of(call: Call, answer: msgspec.Struct | None) -> int:
    if answer is None:
        return 204
    return 503 if call.is_unavailable else 201 if call.has_created else 200


def _authorize(
    operation: Operation[Call], caller: Caller, params: Mapping[str, Callable[[], str]]
) -> Mapping[str, str]:
    """Check the caller's role and scope, and return the parameters of the path. Raises RequestError."""
    if not caller.may(operation.role):
        role = operation.role.name.lower()
        raise problem(Problem.FORBIDDEN, f"this needs the role {role}", remedy="ask an administrator of the relay")
    known = {name: read() for name, read in params.items()}
    if not (operation.filters or caller.sees(known.get("name"))):
        raise problem(
            Problem.FORBIDDEN,
            "this is outside of the caller's scope",
            remedy="use a caller with another scope, or ask an administrator of the relay",
        )
    return known


async def _run(operation: Operation[Call], call: Call) -> msgspec.Struct | None:
    if operation.is_audited:
        call.managed.scoped_changes.admit(call.caller)
    try:
        return await operation.handler(call)
    except ConfigurationError as exc:
        if isinstance(exc, NoConnection) and not call.caller.scope.is_everything:
            remedy = "GET /v1/hybridConnections lists those of the caller's scope"
            raise problem(Problem.NOT_FOUND, str(exc), remedy=remedy) from exc
        if isinstance(exc, QuotaReached) and not call.caller.scope.is_everything:
            # Its text has the number of all hybrid connections, and the edition is that of the whole relay.
            detail = "the edition of this relay allows no further hybrid connections; nothing was changed"
            raise problem(Problem.QUOTA, detail, remedy="ask an administrator of the relay") from exc
        raise problem_of(exc, conditional=call.must_exist) from exc


def _preconditions(operation: Operation[Call], request: Request) -> tuple[int | None, bool, bool]:
    if not operation.versioned or not operation.is_audited:
        return None, False, False
    must_exist = bool(request.headers.all("if-match"))
    return _if_match(request), must_exist, operation.creates and _if_none_match(request)


def _if_match(request: Request) -> int | None:
    values = request.headers.all("if-match")
    if not values or values == ["*"]:
        return None
    if len(values) == 1 and (match := _ETAG.fullmatch(values[0])):
        return int(match[1])
    raise problem(
        Problem.INVALID,
        "If-Match is not one ETag of this API",
        errors=[{"pointer": "If-Match", "detail": "malformed"}],
    )


def _if_none_match(request: Request) -> bool:
    values = request.headers.all("if-none-match")
    if values in ([], ["*"]):
        return bool(values)
    raise problem(
        Problem.INVALID,
        "If-None-Match can only be *: then a new resource is created, and an existing one is not changed",
        errors=[{"pointer": "If-None-Match", "detail": "malformed"}],
    )


def _parse_body_untrusted(operation: Operation[Call], request: Request, data: bytes) -> msgspec.Struct | None:
    if operation.body is None:
        if data:
            raise problem(Problem.INVALID, "this operation takes no body", remedy="leave the body out")
        return None
    content_type = request.headers.get("content-type")
    if content_type is None or content_type.partition(";")[0].strip().lower() != _JSON:
        raise problem(
            Problem.UNSUPPORTED_MEDIA_TYPE,
            f"the body has to be {_JSON}",
            remedy=f"send the header Content-Type: {_JSON}",
        )
    try:
        return msgspec.json.decode(data, type=operation.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise invalid("the body does not match this operation", exc, "", operation.body) from exc
