"""A client of the management API, for the commands that administrators run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlencode

import attrs
import h11
import msgspec
import trio

from ..errors import ManagementError, OutcomeUnknown
from .addresses import Address, LocalAddress
from .problem_kinds import Problem
from .refusals import refusal_of, unreadable_change

__all__ = ["ManagementClient"]

T = TypeVar("T")

#: The timeout for opening a connection (seconds).
_CONNECT_SECONDS = 15.0
#: The timeout for one request and its whole response (seconds).
_TIMEOUT_SECONDS = 30.0
#: A connection that was idle for longer than this (seconds) is not used again; the relay closes it after 10 s.
_IDLE_SECONDS = 5.0
#: A request that came too soon is repeated if the relay asks for a pause that is no longer than this (seconds), and
#: at most this many times.
_LONGEST_PAUSE_SECONDS = 2
_MAX_REPEATS = 10
#: The longest response that is accepted (bytes). A page of 1,000 sessions has about 500 KiB.
_MAX_RESPONSE = 16 * 1024 * 1024
_BLOCK = 256 * 1024
_JSON = "application/json"
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.ProtocolError)


@attrs.define
class _Connection:
    stream: trio.abc.Stream
    used_at: float
    http: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent."""
        return self.http.our_state is h11.IDLE and trio.current_time() - self.used_at < _IDLE_SECONDS


@attrs.frozen
class _Response:
    status: int
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes


class ManagementClient:
    """Sends requests to a management API, one after the other. Opens connections when they are needed.

    Args:
        address: the address of the API.
        peer: the name of the other side in error messages.
    """

    def __init__(self, address: Address, *, peer: str = "the relay") -> None:
        self._address = address
        self._peer = peer
        self._connection: _Connection | None = None
        #: The size of the bodies of all responses so far (bytes).
        self.received_bytes = 0
        #: Whether an earlier request was answered.
        self._has_answered = False

    async def connect_if_it_runs(self) -> bool:
        """Open a connection to a relay on this machine. Returns False if nothing listens on its socket.

        Raises:
            ManagementError: something is listening, but this user may not connect to it, or it accepts no
                connections.
        """
        assert isinstance(self._address, LocalAddress)
        try:
            with trio.fail_after(_CONNECT_SECONDS):
                stream = await self._address.connect_if_it_runs()
        except trio.TooSlowError as exc:
            raise _no_connection(self._peer) from exc
        if stream is not None:
            self._connection = _Connection(stream, trio.current_time())
        return stream is not None

    async def get(
        self, path: str, kind: type[T], *, query: Mapping[str, str | float | None] | None = None, seconds: float = 0
    ) -> T:
        """Send GET, and return the decoded response.

        Args:
            path, kind, seconds: see `call`.
            query: the parameters of the query; None omits one.

        Raises:
            HybridRelayError: see `call`.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return await self.call("GET", f"{path}?{urlencode(given)}" if given else path, kind, seconds=seconds)

    async def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: msgspec.Struct | Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        changes: bool | None = None,
        seconds: float = 0,
    ) -> T:
        """Send a request and return the decoded response.

        Args:
            method, path: the method and the path of the request; the latter without the prefix of the address.
            kind: the type of the response; ``type(None)`` if it has no content.
            body: the body, which is sent as JSON.
            headers: further header fields.
            changes: whether the request changes something; None means yes, except for GET.
            seconds: how long the request asks the relay to wait before it answers. The deadline is 30 s later.

        Raises:
            OutcomeUnknown: a change was requested, and the relay did not answer, or its response does not have the
                expected form.
            ManagementError: the relay cannot be reached, is too slow, or cannot answer now; or its response does not
                have the expected form.
            ConfigurationError: the relay has refused the request; see `refusal_of`.
            RelayIdentityError: the relay's certificate is not trusted.

        If cancelled, the connection is closed.
        """
        changes = method != "GET" if changes is None else changes
        data = b"" if body is None else msgspec.json.encode(body)
        sent = [("Host", self._address.host), ("Accept", _JSON), *(headers or {}).items()]
        if self._address.authorization is not None:
            sent.append(("Authorization", self._address.authorization.reveal()))
        if body is not None:
            sent.append(("Content-Type", _JSON))
        if body is not None or method != "GET":
            sent.append(("Content-Length", str(len(data))))
        request = h11.Request(method=method, target=f"{self._address.prefix}{path}", headers=sent)
        response = await self._exchange(request, data, f"{method} {path}", changes=changes, seconds=seconds)
        for _ in range(_MAX_REPEATS):
            if (pause := _requested_pause(response)) is None:
                break
            await trio.sleep(pause)
            response = await self._exchange(request, data, f"{method} {path}", changes=changes, seconds=seconds)
        if response.status >= 300:
            raise refusal_of(method, path, response.status, response.headers, response.body, changes=changes)
        try:
            return self.parse_untrusted(response.body or b"null", kind, f"{method} {path}")
        except ManagementError as exc:
            if not changes:
                raise
            raise unreadable_change(exc) from exc

    def parse_untrusted(self, data: bytes, kind: type[T], request: str) -> T:
        """Decode JSON in a response.

        Args:
            data: the JSON.
            kind: the type that the JSON must have.
            request: the method and the path of the request, for errors.

        Raises:
            ManagementError: the data is not JSON, or has the wrong type.
        """
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise ManagementError(
                f"the answer of {self._peer} to {request} is not what this version expects: {exc}",
                remedy=f"use the same version of hybridrelay as {self._peer}",
            ) from exc

    async def aclose(self) -> None:
        """Close the connection at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await trio.aclose_forcefully(connection.stream)

    async def _exchange(
        self, request: h11.Request, data: bytes, what: str, *, changes: bool, seconds: float
    ) -> _Response:
        is_reused = self._connection is not None
        # A change gets a new connection: if the relay closed an old one at this moment, it would be unknown whether
        # the change was made.
        if self._connection is not None and (changes or not self._connection.is_usable):
            await self.aclose()
            is_reused = False
        connection = await self._connect() if self._connection is None else self._connection
        self._connection = None
        try:
            try:
                with trio.fail_after(_TIMEOUT_SECONDS + seconds):
                    http = connection.http
                    pieces = [
                        http.send(request),
                        http.send(h11.Data(data)) if data else b"",
                        http.send(h11.EndOfMessage()),
                    ]
                    await connection.stream.send_all(b"".join(piece or b"" for piece in pieces))
                    response = await _receive(connection)
                    self.received_bytes += len(response.body)
            except _BROKEN as exc:
                if is_reused and not changes and not isinstance(exc, trio.TooSlowError):
                    return await self._exchange(request, data, what, changes=changes, seconds=seconds)
                raise _no_answer(self._peer, what, exc, changes=changes) from exc
            except ManagementError as exc:  # the response is too long
                if not changes:
                    raise
                raise unreadable_change(exc) from exc
            self._has_answered = True
            if http.our_state is h11.DONE and http.their_state is h11.DONE:
                http.start_next_cycle()
                connection.used_at = trio.current_time()
                self._connection = connection
            return response
        finally:
            if self._connection is not connection:
                await trio.aclose_forcefully(connection.stream)

    async def _connect(self) -> _Connection:
        try:
            with trio.fail_after(_CONNECT_SECONDS):
                stream = await self._address.connect()
        except ManagementError as exc:
            if not self._has_answered:
                raise
            raise ManagementError(
                f"{self._peer} has stopped since the previous request, and did not get this one",
                remedy="run the command again",
            ) from exc
        except trio.TooSlowError as exc:
            raise _no_connection(self._peer) from exc
        return _Connection(stream, trio.current_time())


def _no_connection(peer: str) -> ManagementError:
    return ManagementError(
        f"{peer} cannot be reached within {_CONNECT_SECONDS:g} s",
        remedy="check whether it hangs; check the address, and firewalls that drop packets silently",
    )


def _requested_pause(response: _Response) -> int | None:
    """Return after how many seconds a request that came too soon may be repeated; None if it did not come too soon,
    or if this is longer than `_LONGEST_PAUSE_SECONDS`.

    The relay has done nothing, so this is also possible for a change.
    """
    text = response.headers.get("retry-after", "")
    if response.status != Problem.RATE.status or not (text.isascii() and text.isdecimal() and len(text) < 4):
        return None
    return int(text) if int(text) <= _LONGEST_PAUSE_SECONDS else None


def _no_answer(peer: str, what: str, exc: BaseException, *, changes: bool) -> ManagementError:
    why = "it did not answer in time" if isinstance(exc, trio.TooSlowError) else "the connection was lost"
    if changes:
        return OutcomeUnknown(
            f"{peer} did not answer {what}: {why}. The change may have been made, or not",
            remedy="check whether it was made, and repeat the command if it was not",
        )
    return ManagementError(f"{peer} did not answer {what}: {why}", remedy="try again")


async def _receive(connection: _Connection) -> _Response:
    status, headers, body = 0, dict[str, str](), bytearray()
    while True:
        event = connection.http.next_event()
        if event is h11.NEED_DATA:
            connection.http.receive_data(bytes(await connection.stream.receive_some(_BLOCK)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_RESPONSE:
                raise ManagementError(f"the relay's answer has more than {_MAX_RESPONSE} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return _Response(status, headers, bytes(body))
