"""One request for a page: its caller, and the operations that the page calls on the caller's behalf."""

from __future__ import annotations

import ipaddress
import os
import shlex
import urllib.parse
from collections.abc import Mapping
from typing import TypeVar

import attrs
import msgspec

from ...http import Request, RequestError
from ...security import ManagementRole
from ..callers import Caller
from ..calls import Call, perform
from ..handlers import OPERATIONS
from ..managed import Managed
from ..operations import Operation
from ..parameters import param_of
from ..peers import Peer
from ..problem_kinds import Problem
from ..problems import problem

__all__ = ["Visit"]

StructT = TypeVar("StructT", bound=msgspec.Struct)

_OPERATIONS: Mapping[str, Operation[Call]] = {row.id: row for row in OPERATIONS}
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 100
#: The state directory in the documentation.
_USUAL_STATE = "/var/lib/hybridrelay"


@attrs.define(eq=False)
class Visit:
    """A request whose caller is known."""

    managed: Managed
    caller: Caller
    request: Request
    #: The body of the request.
    body: bytes = attrs.field(default=b"", repr=False)
    #: Whether an operation was called that is recorded in the audit log.
    has_called: bool = False

    @property
    def is_local(self) -> bool:
        """Whether the request came through the Unix socket."""
        return isinstance(self.request.peer, Peer) and not self.request.peer.address

    @property
    def scheme(self) -> str:
        """The scheme of the request, as far as the relay can know it."""
        is_encrypted = isinstance(self.request.peer, Peer) and self.request.peer.is_encrypted
        return "https" if is_encrypted else "http"

    @property
    def state_argument(self) -> str:
        """The relay's state directory, quoted for a shell."""
        return shlex.quote(os.path.abspath(self.managed.state_dir or _USUAL_STATE))

    @property
    def is_on_relays_machine(self) -> bool:
        """Whether the request came through the Unix socket or a loopback address."""
        if self.is_local:
            return True
        try:
            return isinstance(self.request.peer, Peer) and ipaddress.ip_address(self.request.peer.address).is_loopback
        except ValueError:
            return False

    @property
    def is_admin(self) -> bool:
        """Whether the caller may change hybrid connections and keys."""
        return self.caller.may(ManagementRole.ADMIN)

    @property
    def is_operator(self) -> bool:
        """Whether the caller may end listeners, senders and sessions."""
        return self.caller.may(ManagementRole.OPERATOR)

    def require(self, role: ManagementRole) -> None:
        """Raises RequestError (403) if the caller does not have this role or a higher one."""
        if not self.caller.may(role):
            raise problem(
                Problem.FORBIDDEN,
                f"this needs the role {role.name.lower()}",
                remedy="ask an administrator of the relay",
            )

    def require_everything(self) -> None:
        """Raises RequestError (403) if the caller may see only some of the hybrid connections."""
        if not self.caller.sees(None):
            raise problem(
                Problem.FORBIDDEN,
                "this is about the relay as a whole, and you may see only some of its hybrid connections",
                remedy="use a token without a scope, or ask an administrator of the relay",
            )

    def require_token(self) -> None:
        """Raises RequestError (403) if the caller has a key of a hybrid connection, which does not permit this."""
        if self.caller.scope.only is not None:
            raise problem(
                Problem.FORBIDDEN,
                "this needs a management token; a key of the hybrid connection is not sufficient",
                remedy="log in with a token, or ask an administrator of the relay",
            )

    def param(self, name: str) -> str:
        """Return a parameter of the page's path, decoded. Raises RequestError (404)."""
        return param_of(self.request, name)

    def asked(self, name: str, limit: int = 300) -> str:
        """Return a parameter of the page's query; empty if it is missing or too long."""
        try:
            pairs = urllib.parse.parse_qsl(
                self.request.query or "", keep_blank_values=True, max_num_fields=_MAX_FIELDS
            )
        except ValueError:
            return ""
        value = dict(pairs).get(name, "")
        return value if len(value) <= limit else ""

    def form(self) -> dict[str, str]:
        """Return the fields of the form in the request's body.

        Raises:
            RequestError: it is not a form, or is malformed.
        """
        content_type = (self.request.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if not self.body:
            return {}
        if content_type != _FORM:
            raise problem(Problem.UNSUPPORTED_MEDIA_TYPE, f"the body has to be {_FORM}")
        try:
            pairs = urllib.parse.parse_qsl(
                self.body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
            )
        except ValueError as exc:
            raise problem(Problem.INVALID, "the form is malformed") from exc
        return dict(pairs)

    async def perform(
        self,
        id_: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        version: int | None = None,
        only_create: bool = False,
        **params: str,
    ) -> tuple[msgspec.Struct | None, int | None]:
        """Call an operation with `calls.perform`."""
        operation = _OPERATIONS[id_]
        self.has_called = self.has_called or operation.is_audited
        return await perform(
            operation,
            self.managed,
            self.caller,
            self.request,
            params=params,
            query=query,
            body=body,
            version=version,
            only_create=only_create,
        )

    async def get(
        self, id_: str, kind: type[StructT], *, query: Mapping[str, object] | None = None, **params: str
    ) -> StructT:
        """Call an operation that has an answer of this type, and return the answer.

        Raises:
            RequestError: the operation is refused, or has failed.
        """
        answer, _ = await self.get_versioned(id_, kind, query=query, **params)
        return answer

    async def get_versioned(
        self, id_: str, kind: type[StructT], *, query: Mapping[str, object] | None = None, **params: str
    ) -> tuple[StructT, int | None]:
        """Do the same as `get`, and also return the version of the answer, if it has one."""
        answer, version = await self.perform(id_, query=query, body=None, version=None, only_create=False, **params)
        assert isinstance(answer, kind)
        return answer, version

    async def get_if_allowed(
        self, id_: str, kind: type[StructT], *, query: Mapping[str, object] | None = None, **params: str
    ) -> StructT | None:
        """Do the same as `get`, but return None if this caller may not call the operation."""
        try:
            return await self.get(id_, kind, query=query, **params)
        except RequestError as exc:
            if exc.failure.status == Problem.FORBIDDEN.status:
                return None
            raise
