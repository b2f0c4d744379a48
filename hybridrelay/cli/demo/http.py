"""HTTP/1.1 for the demo, for both sides: h11 over a Trio stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import h11
import trio

#: Bodies consist of repetitions of this block.
BLOCK = bytes(64 * 1024)

#: Called repeatedly during a measurement with the seconds and bytes so far.
Progress = Callable[[float, int], None]


class Wire:
    """One side of an HTTP connection."""

    def __init__(self, stream: trio.abc.Stream, connection: h11.Connection) -> None:
        self._stream = stream
        self.connection = connection

    async def send(self, *events: h11.Event) -> None:
        """Send events with one write."""
        await self._stream.send_all(b"".join(self.connection.send(event) or b"" for event in events))

    async def receive(self) -> h11.Event:
        """Receive the peer's next event. Must not be called between the peer's end of message and the next cycle.

        Raises:
            h11.RemoteProtocolError: the peer has violated HTTP.
            trio.BrokenResourceError: the connection is broken.
        """
        while True:
            event = self.connection.next_event()
            if isinstance(event, h11.Event):
                return event
            assert event is h11.NEED_DATA
            self.connection.receive_data(bytes(await self._stream.receive_some()))


@attrs.frozen
class Answer:
    """A complete response."""

    status: int
    reason: str
    body: bytes


async def request(stream: trio.abc.Stream, path: str) -> Answer:
    """Send a GET request, and read the complete response."""
    wire = Wire(stream, h11.Connection(h11.CLIENT))
    await wire.send(_request("GET", path), h11.EndOfMessage())
    return await _read_answer(wire)


async def measure_down(stream: trio.abc.Stream, seconds: float, progress: Progress) -> float:
    """Read an endless body for `seconds`, and return the speed in bytes per second."""
    wire = Wire(stream, h11.Connection(h11.CLIENT))
    await wire.send(_request("GET", "/bytes"), h11.EndOfMessage())
    await wire.receive()  # the response's head
    count, began = 0, trio.current_time()
    with trio.move_on_after(seconds):
        while isinstance(event := await wire.receive(), h11.Data):
            count += len(event.data)
            progress(trio.current_time() - began, count)
    return count / (trio.current_time() - began)


async def measure_up(stream: trio.abc.Stream, seconds: float, progress: Progress) -> float:
    """Send a body for `seconds`, and return the speed in bytes per second, as received by the other end."""
    wire = Wire(stream, h11.Connection(h11.CLIENT))
    await wire.send(_request("POST", "/bytes", ("Transfer-Encoding", "chunked")))
    sent, began = 0, trio.current_time()
    while (elapsed := trio.current_time() - began) < seconds:
        await wire.send(h11.Data(data=BLOCK))
        sent += len(BLOCK)
        progress(elapsed, sent)
    await wire.send(h11.EndOfMessage())
    answer = await _read_answer(wire)
    received: int = json.loads(answer.body)["received"]
    return received / (trio.current_time() - began)


def _request(method: str, path: str, *headers: tuple[str, str]) -> h11.Request:
    fields: list[Any] = [("Host", "demo"), ("User-Agent", "hybridrelay-demo"), *headers]
    return h11.Request(method=method, target=path, headers=fields)


async def _read_answer(wire: Wire) -> Answer:
    head = await wire.receive()
    assert isinstance(head, h11.Response)
    body = bytearray()
    while isinstance(event := await wire.receive(), h11.Data):
        body += event.data
    return Answer(head.status_code, head.reason.decode("ascii"), bytes(body))
