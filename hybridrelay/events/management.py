"""Events of the management API."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = ["ManagementCalled", "ManagementUnavailable"]


@attrs.frozen(kw_only=True)
class ManagementCalled(Event):
    """A call that changes something, or shows keys, was answered. There is one for refused calls as well."""

    name: ClassVar = "management.called"
    level: ClassVar = Level.INFO
    summary: ClassVar = "An administrator has called the management API"

    #: The id of the operation, as in the API's description.
    operation_id: str
    #: How the caller was identified, and as whom.
    caller: str
    role: str
    #: The hybrid connection; empty where the call is about no one in particular, or names what cannot be one.
    connection: str = ""
    #: The authorization rule, where the call is about one.
    rule: str = ""
    #: The id of the token of the management API, where the call is about one.
    token: str = ""
    #: Of the HTTP response.
    status: int


@attrs.frozen(kw_only=True)
class ManagementUnavailable(Event):
    """The relay runs without its management API."""

    name: ClassVar = "management.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The management API is not available"

    file: str
    detail: str
