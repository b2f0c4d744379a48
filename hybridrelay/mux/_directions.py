"""The two directions of a bridge: they move bytes, and report what ends them to the machine in `bridging.py`.

Both are on the hot path: if nothing blocks, a message passes through each of them without a task switch.
"""

from __future__ import annotations

from typing import Protocol

import trio

from ..errors import HybridRelayError
from ..protocol.reasons import Reason
from ..streams.nowait import READ_BYTES, Buffer, NowaitStream
from ..streams.turns import SharedTurns
from .bridging import Input
from .stream import MuxStream

__all__ = ["Broke", "Inward", "Outward", "Report", "stream_broke"]

_STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError)


class Report(Protocol):
    """The function that is called with each input for the machine, except `Input.ACCEPTED` and `Input.REFUSED`."""

    def __call__(self, cause: Input, reason: Reason = Reason.NO_ERROR) -> None: ...


class Broke(Exception):
    """One side of the bridge failed."""

    def __init__(self, cause: Input, reason: Reason) -> None:
        super().__init__(reason.describe)
        self.cause = cause
        self.reason = reason


def stream_broke(stream: MuxStream, reason: Reason) -> Broke:
    """Return the error for a stream that was reset, or lost with its session."""
    return Broke(Input.STREAM_LOST if stream.was_lost else Input.STREAM_RESET, reason)


def _reason_of(error: BaseException) -> Reason:
    """Return why a call of a stream failed. It is `CANCELLED` if the stream was closed on this side, without a
    reason."""
    return error.__cause__.reason if isinstance(error.__cause__, HybridRelayError) else Reason.CANCELLED


def _local_broke() -> Broke:
    return Broke(Input.LOCAL_BROKE, Reason.TARGET_RESET)


class Outward:
    """Moves bytes from the TCP connection into the stream.

    Args:
        stream: the stream.
        port: the TCP connection.
        early: data that was sent on an earlier stream, which the peer refused, and that has to be sent again; b""
            means the end of file. Data that is sent on this stream before the peer accepts it is appended.
        report: called with what happens.
    """

    def __init__(self, stream: MuxStream, port: NowaitStream, early: list[bytes], report: Report) -> None:
        self.early = early
        self._stream = stream
        self._port = port
        self._report = report
        self._turns = stream.turns or SharedTurns()
        #: Whether the peer has stopped reading: what the TCP connection sends is read and dropped.
        self._drops = False

    async def run(self) -> None:
        """Move everything, including the end of file."""
        try:
            if not await self._send_again():
                await self._move()
        except Broke as exc:
            self._report(exc.cause, exc.reason)

    async def _move(self) -> None:
        port, turns = self._port, self._turns
        if turns.begin():
            await turns.next()
        most = self._most_to_read()
        while True:
            try:
                while (data := port.receive_nowait(most)) is None:
                    await port.wait_readable()
                    if turns.begin():
                        await turns.next()
                    most = self._most_to_read()
            except _STREAM_ERRORS as exc:
                raise _local_broke() from exc
            size = len(data)
            if not size:
                await self._send_end()
                return
            has_room = self._send(data)
            is_over = turns.use(0, size)
            if not has_room:
                await self._make_room()
                is_over = turns.begin()
            elif not is_over:
                continue
            if is_over:
                await turns.next()
            most = self._most_to_read()

    def _most_to_read(self) -> int:
        """Return how much to read before other tasks run again. Meanwhile, no other task can use up the memory."""
        return min(READ_BYTES, self._stream.send_share)

    def _send(self, data: Buffer) -> bool:
        """Queue `data`. Returns False if the stream's queue is full now."""
        if self._drops:
            return True
        stream = self._stream
        if not stream.was_accepted:
            data = bytes(data)
            self.early.append(data)
        try:
            return stream.send_nowait(data)
        except _STREAM_ERRORS as exc:
            self._not_taken(exc)
            return True

    async def _make_room(self) -> None:
        try:
            await self._stream.flush()
        except _STREAM_ERRORS as exc:
            self._not_taken(exc)

    async def _send_end(self) -> None:
        if self._drops:
            return
        if not self._stream.was_accepted:
            self.early.append(b"")
        await self._pass_on_end()

    async def _pass_on_end(self) -> None:
        try:
            await self._stream.send_eof()
        except _STREAM_ERRORS as exc:
            self._not_taken(exc)
        else:
            self._report(Input.LOCAL_ENDED)

    async def _send_again(self) -> bool:
        """Send again what was sent on an earlier, refused stream. Returns True if that includes the end of file."""
        early = self.early  # replaced when the peer accepts the stream
        for data in early:
            if self._drops:
                break
            if not data:
                await self._pass_on_end()
                continue
            try:
                has_room = self._stream.send_nowait(data)
            except _STREAM_ERRORS as exc:
                self._not_taken(exc)
                break
            if not has_room:
                await self._make_room()
        return early[-1:] == [b""]

    def _not_taken(self, error: BaseException) -> None:
        """Handle a stream that accepts nothing more, because the peer has stopped reading or because it was reset."""
        stream = self._stream
        if stream.reset_reason is not Reason.NO_ERROR:
            raise stream_broke(stream, _reason_of(error)) from error
        # The peer may close the stream right after its last bytes, while the local program still answers earlier
        # ones. The last bytes still have to be delivered to the program. Until then, its answers are read and
        # dropped; otherwise the program and this bridge could wait for each other.
        self._drops = True
        self._report(Input.PEER_STOPPED, _reason_of(error))


class Inward:
    """Moves bytes from the stream into the TCP connection.

    Args:
        stream: the stream.
        local: the TCP connection.
        port: the same connection, with methods that do not wait.
        report: called with what happens.
    """

    def __init__(self, stream: MuxStream, local: trio.SocketStream, port: NowaitStream, report: Report) -> None:
        self._stream = stream
        self._local = local
        self._port = port
        self._report = report
        self._received = 0
        #: Whether `run` is waiting for the stream, so `deliver_nowait` may do its work.
        self._waits = False
        #: Whether the TCP connection has not accepted everything that was written to it.
        self._is_blocked = False

    @property
    def received(self) -> int:
        """The number of bytes that the TCP connection has accepted."""
        return max(0, self._received - self._port.unsent_bytes)

    async def run(self) -> None:
        """Move everything, and the end of file. The stream must have been accepted."""
        try:
            self._stream.set_data_callback(self.deliver_nowait)
            while not self._deliver():
                await (self._unblock() if self._is_blocked else self._wait())
            await self._pass_on_end()
        except Broke as exc:
            self._report(exc.cause, exc.reason)

    def deliver_nowait(self) -> bool:
        """Do the work of `run` while `run` waits, in the task that has received data. Returns False to wake `run`."""
        if not self._waits:
            return True  # `run` is awake, and checks again before it waits
        try:
            at_end = self._deliver()
        except Broke as exc:
            # Report the error at once: a TCP connection reports an error only once, and `Outward` would then read end
            # of file.
            self._report(exc.cause, exc.reason)
            return False
        return not at_end and not self._is_blocked

    def _deliver(self) -> bool:
        """Move as much of what has arrived as the TCP connection accepts. Returns True at the end of the stream."""
        while not self._is_blocked:
            try:
                pieces = self._stream.receive_pieces_nowait()
            except _STREAM_ERRORS as exc:
                raise stream_broke(self._stream, _reason_of(exc)) from exc
            if pieces is None:
                return False
            if not pieces:
                return True
            try:
                self._is_blocked = not self._port.send_nowait(*pieces)
            except _STREAM_ERRORS as exc:
                raise _local_broke() from exc
            self._received += sum(map(len, pieces))
        return False

    async def _wait(self) -> None:
        self._waits = True
        try:
            await self._stream.wait_readable()
        except _STREAM_ERRORS as exc:
            raise stream_broke(self._stream, _reason_of(exc)) from exc
        finally:
            self._waits = False

    async def _unblock(self) -> None:
        try:
            await self._port.flush()
        except _STREAM_ERRORS as exc:
            raise _local_broke() from exc
        self._is_blocked = False

    async def _pass_on_end(self) -> None:
        try:
            await self._local.send_eof()
        except _STREAM_ERRORS as exc:
            raise _local_broke() from exc
        self._report(Input.PEER_ENDED)
