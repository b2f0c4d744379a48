"""Events of the management API."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = ["ManagementCalled", "ManagementUnavailable"]


@attrs.frozen(kw_only=True)
class ManagementCalled(Event):
    """A call that changes something, or shows keys, was answered. Also published for refused calls."""

    name: ClassVar = "management.called"
    level: ClassVar = Level.INFO
    summary: ClassVar = "An administrator has called the management API"

    #: The id of the operation, as in the API's description.
    operation_id: str
    #: How the caller was identified, and as which user: ``local uid 1000``.
    caller: str
    role: str
    #: The name of the hybrid connection; empty if the call is not about a single one, or the name is not valid.
    connection: str = ""
    #: The name of the authorization rule, if the call is about one.
    rule: str = ""
    #: The id of the token of the management API, if the call is about one.
    token: str = ""
    #: The status code of the HTTP response.
    status: int


@attrs.frozen(kw_only=True)
class ManagementUnavailable(Event):
    """The relay runs without its management API."""

    name: ClassVar = "management.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The management API is not available"

    file: str
    detail: str
