"""The table of operations of the management API. Pure.

Each row describes one operation completely: its path, the role that it needs, and the types of its request and
response. The router, the validation of requests, the authorization, the audit log and the OpenAPI document are
derived from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import attrs
import msgspec

from ..http import StreamedResponse
from ..security import ManagementRole

__all__ = ["EVENT_STREAM", "Operation", "Operations", "Text"]

#: The media type of server-sent events.
EVENT_STREAM = "text/event-stream"

ContextT = TypeVar("ContextT")
#: Safe methods change nothing (RFC 9110 section 9.2.1).
_SAFE = frozenset({"GET", "HEAD"})


class Text(msgspec.Struct, frozen=True):
    """A response that is not JSON."""

    text: str
    media_type: str


@attrs.frozen(kw_only=True)
class Operation(Generic[ContextT]):
    """One operation."""

    #: The unique id: ``operationId`` in the OpenAPI document and the audit log.
    id: str
    method: str
    #: The path, with its parameters in braces, such as ``/v1/hybridConnections/{name}``.
    path: str
    #: A sentence for people.
    summary: str
    #: The lowest role that may call the operation.
    role: ManagementRole
    #: Performs the operation. Gets the context of the request, and returns the body of the response, or None.
    handler: Callable[[ContextT], Awaitable[msgspec.Struct | None]]
    #: Makes the response for a client that asks for server-sent events; None if the operation has no such response.
    streams: Callable[[ContextT], StreamedResponse] | None = None
    #: The type of the request's body; None if it has none.
    body: type[msgspec.Struct] | None = None
    #: The type of the query's parameters; None if there are none.
    query: type[msgspec.Struct] | None = None
    #: The type of the response's body; None if it has none (204).
    answer: type[msgspec.Struct] | None = None
    #: The media type of the response if `answer` is `Text`; otherwise it is JSON.
    media_type: str = "application/json"
    #: Whether the response may also have the status 503, with the same content.
    may_be_unavailable: bool = False
    #: Whether the status may also be 201, because something was created.
    creates: bool = False
    #: Whether If-Match is evaluated, and responses have an ETag.
    versioned: bool = False
    #: Whether calls are in the audit log although they change nothing, because the response contains secrets.
    shows_secrets: bool = False
    #: The operations on a resource that this operation has created, by their ids, with the parameters of their paths
    #: as runtime expressions (OpenAPI 3.1, section 4.8.20.4).
    leads_to: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    #: Whether the handler omits what is outside of the caller's scope (`Caller.sees`). Callers with a scope may then
    #: call the operation although its path names no hybrid connection.
    filters: bool = False
    #: Whether the handler may wait for something to happen. It then takes turns by itself, and only while it does not
    #: wait.
    waits: bool = False

    @property
    def is_audited(self) -> bool:
        """Whether all calls, including refused ones, are in the audit log."""
        return self.method not in _SAFE or self.shows_secrets


class Operations(Generic[ContextT]):
    """The table.

    Raises:
        ValueError: two rows have the same id.
    """

    def __init__(self, rows: Iterable[Operation[ContextT]]) -> None:
        self.rows = tuple(rows)
        if len({row.id for row in self.rows}) != len(self.rows):
            raise ValueError("two operations have the same id")

    def __iter__(self) -> Iterator[Operation[ContextT]]:
        return iter(self.rows)
