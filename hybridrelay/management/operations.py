"""The table of operations of the management API. Pure.

Each row says everything about one operation: where it is, who may call it, what it takes and gives. The router, the
validation of requests, the authorization, the audit log and the OpenAPI document are made of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Generic, TypeVar

import attrs
import msgspec

from ..security import ManagementRole

__all__ = ["Operation", "Operations", "Text"]

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

    #: Unique; ``operationId`` in the OpenAPI document, and what the audit log names.
    id: str
    method: str
    #: ``/v1/hybridConnections/{name}``.
    path: str
    #: One sentence for people.
    summary: str
    #: The least role that may call it.
    role: ManagementRole
    #: Does it. Gets the context of the request; returns what the response contains, or None if it contains nothing.
    handler: Callable[[ContextT], Awaitable[msgspec.Struct | None]]
    #: What the request contains; None: nothing.
    body: type[msgspec.Struct] | None = None
    #: The parameters of the query string.
    query: type[msgspec.Struct] | None = None
    #: What the response contains; None: nothing (204).
    answer: type[msgspec.Struct] | None = None
    #: What the response is instead of JSON, if `answer` is `Text`.
    media_type: str = "application/json"
    #: Whether the response may also have the status 503, with the same content.
    may_be_unavailable: bool = False
    #: Whether the response may also say that something was created (201).
    creates: bool = False
    #: Whether If-Match is obeyed, and the response of a change or a read has an ETag.
    versioned: bool = False
    #: Whether it is in the audit log although it changes nothing, because it shows secrets.
    shows_secrets: bool = False
    #: Whether the handler leaves out what the caller's scope does not cover (`Caller.sees`), so that callers with a
    #: scope may call it although its path names no hybrid connection.
    filters: bool = False

    @property
    def is_audited(self) -> bool:
        """Whether each call of it is in the audit log, refused ones too."""
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
