"""A client of the management API, for the commands that administrators run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import h11
import msgspec
import trio

from ..errors import ManagementError, StateError
from ..relay.store.state_dir import local_socket
from ..streams.unix_sockets import connect_unix_socket
from .service import SOCKET

__all__ = ["ManagementClient", "connect_to_relay_on"]

T = TypeVar("T")

#: How long one request and its complete response may take (seconds).
_TIMEOUT_SECONDS = 30.0
#: The longest response that is accepted (bytes). A page of 1,000 sessions has about 500 KiB.
_MAX_RESPONSE = 16 * 1024 * 1024
_BLOCK = 256 * 1024


async def connect_to_relay_on(state_dir: Path) -> trio.abc.Stream:
    """Connect to the management socket of the relay that uses a state directory.

    Raises:
        StateError: there is no such directory.
        ManagementError: no relay is running with it, or this user may not open its socket.
    """
    path = local_socket(state_dir, SOCKET)
    if not await trio.Path(state_dir).is_dir():
        raise StateError(
            f"the state directory {state_dir} does not exist", remedy="give the state directory of the relay"
        )
    try:
        return await connect_unix_socket(path)
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise ManagementError(
            f"no relay is running with the state directory {state_dir}",
            remedy="start it, or give the state directory of a running relay; if the relay is running, look for "
            "management.unavailable in its log",
        ) from exc
    except OSError as exc:
        raise ManagementError(
            f"cannot connect to {path}: {exc.strerror}", remedy="run as the user who runs the relay, or as root"
        ) from exc


class ManagementClient:
    """A client with one connection to the management API. It sends one request at a time.

    Args:
        stream: the connection, which the client then owns.
        host: the value of the Host header.
    """

    def __init__(self, stream: trio.abc.Stream, host: str = "localhost") -> None:
        self._stream = stream
        self._host = host
        self._http = h11.Connection(h11.CLIENT)

    async def get(self, path: str, kind: type[T], **query: str | int | None) -> T:
        """Make a GET request, and decode the response. Query parameters that are None are omitted.

        Raises:
            ManagementError: see `call`.
        """
        given = {name: value for name, value in query.items() if value is not None}
        return await self.call("GET", f"{path}?{urlencode(given)}" if given else path, kind)

    async def call(self, method: str, path: str, kind: type[T]) -> T:
        """Make a request without a body, and decode the response.

        Args:
            method: of the request.
            path: of the request, with its query.
            kind: the type of the response; `type(None)` for a response without content.

        Raises:
            ManagementError: the relay has refused the request (the error then has the relay's remedy), the response
                is not of that type, or the connection was lost or is too slow.

        After an error, and if this is cancelled, the connection can no longer be used.
        """
        status, body = await self._exchange(method, path)
        if status >= 400:
            raise _refused(status, body)
        try:
            return msgspec.json.decode(body or b"null", type=kind)
        except msgspec.MsgspecError as exc:
            raise ManagementError(
                f"the relay's answer to {method} {path} is not what this version expects: {exc}",
                remedy="use the same version of hybridrelay as the relay",
            ) from exc

    async def aclose(self) -> None:
        """Close the connection at once."""
        await trio.aclose_forcefully(self._stream)

    async def _exchange(self, method: str, path: str) -> tuple[int, bytes]:
        headers = [("Host", self._host), ("Accept", "application/json")]
        if method == "POST":
            headers.append(("Content-Length", "0"))
        try:
            with trio.fail_after(_TIMEOUT_SECONDS):
                request = self._http.send(h11.Request(method=method, target=path, headers=headers))
                end = self._http.send(h11.EndOfMessage())
                await self._stream.send_all((request or b"") + (end or b""))
                return await self._receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.ProtocolError) as exc:
            why = "it did not answer in time" if isinstance(exc, trio.TooSlowError) else "the connection was lost"
            raise ManagementError(f"the relay did not answer {method} {path}: {why}", remedy="try again") from exc

    async def _receive(self) -> tuple[int, bytes]:
        status, body = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some(_BLOCK)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > _MAX_RESPONSE:
                    raise ManagementError(f"the relay's answer has more than {_MAX_RESPONSE} bytes")
            elif isinstance(event, h11.EndOfMessage):
                if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                return status, bytes(body)


def _refused(status: int, body: bytes) -> ManagementError:
    """The error for a response that is a problem document (RFC 9457)."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    detail, remedy = problem.get("detail"), problem.get("remedy")
    return ManagementError(
        detail if isinstance(detail, str) else f"the relay has refused the request with status {status}",
        remedy=remedy if isinstance(remedy, str) else None,
    )
