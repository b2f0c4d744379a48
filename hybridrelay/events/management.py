"""Events of the management API."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "ManagementAuthenticationFailed",
    "ManagementCallRefused",
    "ManagementCalled",
    "ManagementClosed",
    "ManagementListening",
    "ManagementTokenUseNotSaved",
    "ManagementUnavailable",
]


@attrs.frozen(kw_only=True)
class _Call(Event):
    #: The id of the operation, as in the API's description.
    operation_id: str
    #: The network address of the caller; ``local`` on the Unix socket.
    peer: str
    #: The id of the request, which is also in the header field Request-Id of the response.
    request_id: str
    #: The name of the hybrid connection; empty if the call is not about a single one, or the name is not valid.
    connection: str = ""
    #: The name of the authorization rule, if the call is about one.
    rule: str = ""
    #: The id of the token of the management API, if the call is about one, or has created one.
    token: str = ""
    #: The id of the claim, if the call is about one, or has created one.
    claim: str = ""
    #: The status of the HTTP response; 0 if there was none, because the client had left or the relay was stopping.
    status: int


@attrs.frozen(kw_only=True)
class ManagementCalled(_Call):
    """An identified caller has made a call that changes something or shows keys. Also published for refused calls.

    The API limits how often a caller may call, so the log leaves none of these events out.
    """

    name: ClassVar = "management.called"
    level: ClassVar = Level.INFO
    is_limited: ClassVar = False
    summary: ClassVar = "An administrator has called the management API"

    #: How the caller was identified, and as whom: ``local uid 1000``.
    caller: str
    role: str
    #: Whether nothing was changed because everything was already as the call asks. False for calls that were refused.
    unchanged: bool = False
    #: Whether the caller may call only about some of the hybrid connections.
    has_scope: bool = False


@attrs.frozen(kw_only=True)
class ManagementCallRefused(_Call):
    """A call that changes something or shows keys was refused before it was known who the caller is."""

    name: ClassVar = "management.call-refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A call of the management API by an unknown caller was refused"


@attrs.frozen(kw_only=True)
class ManagementAuthenticationFailed(Event):
    """A request had credentials that are not valid (the answer is 401), or was signed with a key that does not give
    the right Manage (403)."""

    name: ClassVar = "management.authentication-failed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Credentials for the management API were refused"

    #: The network address of the caller; ``local`` on the Unix socket.
    peer: str
    detail: str


@attrs.frozen(kw_only=True)
class ManagementTokenUseNotSaved(Event):
    """The times at which tokens were last used could not be saved. Saving is tried again every minute."""

    name: ClassVar = "management.token-use-not-saved"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The last use of tokens for the management API cannot be saved"

    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class ManagementClosed(Event):
    """A reload has closed an address of the management API. If the reload then fails, it opens the address again; and
    those that it had opened are closed."""

    name: ClassVar = "management.closed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The management API is no longer served at an address"

    #: ``127.0.0.1:9180``
    address: str


@attrs.frozen(kw_only=True)
class ManagementListening(Event):
    """The management API is served over TCP. This is published again when the TLS of the address is changed."""

    name: ClassVar = "management.listening"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The management API is served"

    #: ``127.0.0.1:9180``
    address: str
    tls: bool
    #: The pin of the certificate; empty without TLS.
    pin: str = ""
    #: Whether callers can be identified by client certificates.
    client_certificates: bool
    #: The entry points that identify further callers.
    authenticators: str = ""


@attrs.frozen(kw_only=True)
class ManagementUnavailable(Event):
    """The relay runs without its management API."""

    name: ClassVar = "management.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The management API is not available"

    file: str
    detail: str
