"""Handles one request: checks it against its operation's row, runs the operation, and makes the response."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import attrs
import msgspec

from ..errors import ConfigurationError
from ..events import ManagementCalled, ManagementCallRefused
from ..http import Handler, Reply, Request, RequestError, Response, StreamedResponse
from ..security import check_connection_name, check_rule_name, check_token_id
from .callers import Caller
from .gate import Gate
from .managed import Managed
from .operations import EVENT_STREAM, Operation, Text
from .parsing import invalid, parse_query_untrusted
from .peers import Peer
from .problems import Problem, problem, problem_of
from .request_ids import REQUEST_ID, new_request_id, with_request_id

__all__ = ["Call", "handler_of"]

StructT = TypeVar("StructT", bound=msgspec.Struct)

_JSON = "application/json"
_HEADERS = (("Content-Type", _JSON), ("Cache-Control", "no-store"))
#: The ids of what runs: of an instance and a session, and of a sender.
_LONG_ID, _SHORT_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")
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

    def body_as(self, kind: type[StructT]) -> StructT:
        """The body, as the class that the operation's row names."""
        assert isinstance(self.body, kind)
        return self.body

    def query_as(self, kind: type[StructT]) -> StructT:
        """The query, as the class that the operation's row names."""
        assert isinstance(self.query, kind)
        return self.query


def handler_of(operation: Operation[Call], managed: Managed, gate: Gate) -> Handler:
    """Return the handler for the route of an operation. `Request.peer` must be a `Peer`."""

    async def handle(request: Request) -> Reply:
        request_id = new_request_id()
        caller: Caller | None = None
        #: 0: there is no response, because the client has disconnected or the relay is stopping.
        status = 0
        try:
            caller = await gate.admit(request)
            response = await _serve(operation, managed, request, caller)
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
                managed.events.publish(_audit(operation, request, caller, status, request_id))

    return handle


async def _serve(
    operation: Operation[Call], managed: Managed, request: Request, caller: Caller
) -> Response | StreamedResponse:
    if not caller.may(operation.role):
        role = operation.role.name.lower()
        raise problem(Problem.FORBIDDEN, f"this needs the role {role}", remedy="ask an administrator of the relay")
    params = {name: _param(request, name) for name in request.params}
    if not (operation.filters or caller.sees(params.get("name"))):
        raise problem(
            Problem.FORBIDDEN,
            "this is outside of the caller's scope",
            remedy="use a caller with another scope, or ask an administrator of the relay",
        )
    # The body is checked before the precondition: a malformed body is an error for every version.
    call = Call(
        managed,
        caller,
        request,
        params,
        None if operation.query is None else parse_query_untrusted(request.query, operation.query),
        await _read_body(operation, request),
        *_preconditions(operation, request),
    )
    if operation.streams is not None and EVENT_STREAM in (request.headers.get("accept") or ""):
        return operation.streams(call)
    try:
        answer = await operation.handler(call)
    except ConfigurationError as exc:
        raise problem_of(exc, conditional=call.must_exist) from exc
    if answer is None:
        return Response(204, headers=(("Cache-Control", "no-store"),))
    if isinstance(answer, Text):
        return Response(
            200, answer.text.encode(), (("Content-Type", answer.media_type), ("Cache-Control", "no-store"))
        )
    etag = () if call.shown_version is None else (("ETag", f'"{call.shown_version}"'),)
    status = 503 if call.is_unavailable else 201 if call.has_created else 200
    return Response(status, msgspec.json.encode(answer), (*_HEADERS, *etag))


def _audit(
    operation: Operation[Call], request: Request, caller: Caller | None, status: int, request_id: str
) -> ManagementCalled | ManagementCallRefused:
    assert isinstance(request.peer, Peer)

    def known(name: str) -> str:
        try:
            return _param(request, name) if name in request.params else ""
        except RequestError:
            return ""

    peer = request.peer.address or "local"
    connection, rule, token = known("name"), known("rule"), known("token")
    if caller is None:
        return ManagementCallRefused(
            operation_id=operation.id,
            peer=peer,
            request_id=request_id,
            connection=connection,
            rule=rule,
            token=token,
            status=status,
        )
    return ManagementCalled(
        operation_id=operation.id,
        peer=peer,
        request_id=request_id,
        connection=connection,
        rule=rule,
        token=token,
        status=status,
        caller=f"{caller.kind} {caller.id}",
        role=caller.role.name.lower(),
    )


def _check_id(pattern: re.Pattern[str], value: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError("there is none with this id")
    return value


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "name": check_connection_name,
    "rule": check_rule_name,
    "instance": partial(_check_id, _LONG_ID),
    "sender": partial(_check_id, _SHORT_ID),
    "session": partial(_check_id, _LONG_ID),
    "token": check_token_id,
}


def _param(request: Request, name: str) -> str:
    value: str = request.param(name)
    try:
        return _CHECKS[name](value)
    except ValueError as exc:
        raise problem(Problem.NOT_FOUND, str(exc)) from exc


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
        "If-None-Match can only be *, which creates and changes nothing",
        errors=[{"pointer": "If-None-Match", "detail": "malformed"}],
    )


async def _read_body(operation: Operation[Call], request: Request) -> msgspec.Struct | None:
    data = await request.body.read()
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
        raise invalid("the body is not what this operation takes", exc, "", operation.body) from exc
