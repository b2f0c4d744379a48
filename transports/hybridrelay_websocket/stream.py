"""A byte stream over a connection after the WebSocket handshake.

Nothing is written between the bytes of a frame: a task that waits until a frame is written holds a lock. By contract,
only one user sends at a time (otherwise `trio.BusyResourceError` is raised). The only other writer answers pings. The
reader never writes, so that a peer that does not read cannot block it: it records the pong that has to be sent, and a
short-lived task sends it.
"""

# This module is long because sending, receiving and closing share the state of one class.

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import trio

from hybridrelay.streams.arguments import check_max_bytes
from hybridrelay.streams.conflict import ConflictDetector
from hybridrelay.streams.nowait import READ_BYTES, Buffer, NowaitStream, Turn, nowait, read_below

from .frames import (
    END_OF_DATA,
    IDLE_FRAMES_AT_ONCE,
    MAX_FRAMES_OF_STRANGER,
    Close,
    Data,
    EndOfData,
    FrameDecoder,
    FrameError,
    Interrupted,
    Ping,
    encode_close,
    encode_data,
    encode_pong,
)

__all__ = ["WebSocketStream"]

#: The longest message that we send (bytes): what a session passes to one write, with the overhead of TLS. Longer
#: messages would have no advantage, and intermediaries may hold a message until it is complete.
MAX_MESSAGE = 320 * 1024
#: The `max_bytes` of `FrameDecoder.next_event`: no limit, since what was received does not stay in memory.
_UNLIMITED = 1 << 62
#: How many frames, including those without payload, are decoded before their payload is returned. This takes up to
#: 0.6 ms.
MAX_FRAMES_PER_READ = 64
#: If the payload of `MAX_FRAMES_PER_READ` frames is smaller than this on average (bytes), other tasks run before more
#: are decoded. Each takes as much time as a large one, and the peer may never stop sending them.
SMALL_FRAME_BYTES = 256
#: If it is smaller than this on average (bytes), the stream also pauses for `PAUSE_SECONDS`, so that the peer uses a
#: few percent of a processor instead of all of it. Our own frames are never so small, because a TLS record adds 22
#: bytes to its content.
TINY_FRAME_BYTES = 22
PAUSE_SECONDS = 0.02
#: How long `WebSocketStream.aclose` tries to send its last frames (seconds): enough for a slow link, and short enough
#: that a peer that does not read does not delay the program.
CLOSE_TIMEOUT = 5
#: RFC 6455 section 7.4.1.
NORMAL_CLOSURE = 1000
PROTOCOL_ERROR = 1002


class WebSocketStream(trio.abc.HalfCloseableStream, NowaitStream):
    """A byte stream over WebSocket. It fulfils Trio's contract, and that of `hybridrelay.abc.Connection.stream`.

    Args:
        transport_stream: the stream on which the handshake was done. This stream owns it from now on.
        client: whether this is the client's side, whose frames are masked.
        received: bytes that were already read after the handshake.
    """

    def __init__(self, transport_stream: trio.abc.Stream, *, client: bool, received: bytes = b"") -> None:
        #: The underlying stream: a socket, or TLS over a socket.
        self.transport_stream = transport_stream
        self._below = nowait(transport_stream)
        self._client = client
        self._decoder = FrameDecoder(masked=not client)
        self._decoder.receive_untrusted(received)
        #: Decoded payload that exceeded the `max_bytes` of an earlier call.
        self._kept: Buffer = b""
        #: Whether more frames have arrived than were decoded in one go.
        self._undecoded = False
        #: If set, nothing is received until `wait_readable` has waited until this time (on Trio's clock).
        self._paused_until: float | None = None
        self._sending = ConflictDetector("another task is sending on this WebSocket stream")
        self._receiving = ConflictDetector("another task is receiving on this WebSocket stream")
        #: Held by the task that waits until frames are written.
        self._write_lock = trio.Lock()
        #: Frames from `send_nowait` that wait because another task held the lock.
        self._held: list[Buffer] = []
        #: The payload of the last ping, if it has not been answered yet.
        self._owed_pong: bytes | None = None
        self._pong_task_runs = False
        self._closed = False
        self._eof_sent = False
        self._eof_received = False
        #: Why the connection is lost, so that nothing more can be received or sent; None if it is intact.
        self._lost: str | None = None
        #: The exception that left a frame incomplete. The peer would interpret anything that follows as its payload.
        self._torn: BaseException | None = None
        self._close_code = NORMAL_CLOSURE

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` as binary messages.

        Raises:
            trio.BusyResourceError, trio.ClosedResourceError: see Trio's contract.
            trio.BrokenResourceError: the connection is lost, the peer closed it or violated the protocol, or an
                earlier call was cancelled in the middle of a frame.

        If cancelled, any part of the data may have been sent, and the stream can only be closed.
        """
        with self._sending:
            self._check_sendable()
            await trio.lowlevel.checkpoint_if_cancelled()
            view = memoryview(data).cast("B")
            waited = False
            for start in range(0, len(view), MAX_MESSAGE):
                if not self._send(view[start : start + MAX_MESSAGE]):
                    try:
                        await self._flush()
                    except trio.Cancelled as exc:
                        self._torn = self._torn or exc
                        raise
                    waited = True
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()

    def send_nowait(self, *buffers: Buffer) -> bool:
        """Send as much of `buffers` as is possible without waiting, as binary messages. See
        `NowaitStream.send_nowait`."""
        if self._sending.held:
            raise trio.BusyResourceError("another task is sending on this WebSocket stream")
        self._check_sendable()
        return self._send(buffers[0] if len(buffers) == 1 else b"".join(buffers))

    def limit_held(self, max_bytes: int | None) -> None:
        """Limit the underlying stream, because this one holds no incomplete frames. See `NowaitStream.limit_held`.

        While there is a limit, the peer counts as a stranger, and may send at most `MAX_FRAMES_OF_STRANGER` frames.
        """
        if max_bytes is None:
            self._decoder.frames_left = None
        elif self._decoder.frames_left is None:
            self._decoder.frames_left = MAX_FRAMES_OF_STRANGER
        self._below.limit_held(max_bytes)

    async def flush(self) -> None:
        """Wait until everything has been sent. See `NowaitStream.flush`."""
        with self._sending:
            self._check_sendable()
            await self._flush()

    async def send_eof(self) -> None:
        """Signal the end of our data. Raises and cancels like `send_all`. Idempotent."""
        with self._sending:
            if self._eof_sent and not self._closed:
                await trio.lowlevel.checkpoint()
                return
            self._check_sendable()
            await self._write(*encode_data(END_OF_DATA, masked=self._client))
            self._eof_sent = True

    async def wait_send_all_might_not_block(self) -> None:
        """See Trio's contract. Raises like `send_all`. If cancelled, nothing changes."""
        with self._sending:
            self._check_sendable()
            async with self._write_lock:
                try:
                    await self.transport_stream.wait_send_all_might_not_block()
                except trio.BrokenResourceError as exc:
                    raise self._broken("the connection is lost") from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return data that has arrived, up to ``max_bytes``; ``b""`` when the peer has signalled the end of its data.

        Raises:
            trio.BusyResourceError, trio.ClosedResourceError: see Trio's contract.
            trio.BrokenResourceError: the connection is lost, or the peer closed it without ending its data, or
                violated the protocol.

        If cancelled, no data is lost.
        """
        check_max_bytes(max_bytes)
        with self._receiving:
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            while (data := self._receive(max_bytes or READ_BYTES)) is None:
                await self._wait_readable()
                waited = True
            data = bytes(data)  # copied before the checkpoint, because other streams may overwrite a view
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return data

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        """Return payload that has arrived, up to `max_bytes`. See `NowaitStream.receive_nowait`."""
        if self._receiving.held:
            raise trio.BusyResourceError("another task is receiving on this WebSocket stream")
        return self._receive(max_bytes)

    @property
    def has_more(self) -> bool:
        """Whether `receive_nowait` may have a result now. See `NowaitStream.has_more`."""
        return self._paused_until is None and (self._has_result or self._below.has_more)

    @property
    def _has_result(self) -> bool:
        """Whether something is left of what has arrived: payload, frames, or the end or loss of the connection."""
        return bool(self._kept or self._undecoded or self._eof_received or self._lost is not None)

    async def wait_readable(self) -> None:
        """Wait until something arrives, possibly less than a frame."""
        with self._receiving:
            await self._wait_readable()

    async def aclose(self) -> None:
        """Send the end of data and Close 1000, if possible within `CLOSE_TIMEOUT`, then close the underlying stream.

        If the peer has violated the protocol, Close 1002 is sent. If the connection was lost otherwise, Close 1000 is
        sent without an end of data, so that the peer does not consider the data complete. Idempotent. If cancelled,
        the underlying stream is closed without sending anything, and the peer sees a broken connection.
        """
        if self._closed:
            await self.transport_stream.aclose()
            return
        self._closed = True
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                with trio.move_on_after(CLOSE_TIMEOUT):
                    try:
                        await self._say_goodbye()
                    finally:
                        await self.transport_stream.aclose()
        finally:
            # The exception refers to this object through its traceback. Break that cycle. Otherwise the memory that
            # OpenSSL has allocated for the layers below would stay until the garbage collector runs, which does not
            # know its size.
            self._torn = None

    async def _say_goodbye(self) -> None:
        if self._sending.held:
            return  # another task is in the middle of a frame, and may stay there
        frames = encode_close(self._close_code, masked=self._client)
        if self._lost is None and not self._eof_sent:
            frames = b"".join(encode_data(END_OF_DATA, masked=self._client)) + frames
        await self._write(frames)

    def _send(self, data: Buffer) -> bool:
        """Write `data` in messages. Returns False if `_flush` has to write the rest."""
        if self._held:
            raise trio.BusyResourceError("call flush() first")
        parts: list[Buffer] = []
        view = memoryview(data)
        for start in range(0, len(view), MAX_MESSAGE):
            parts += encode_data(view[start : start + MAX_MESSAGE], masked=self._client)
        if self._write_lock.locked():
            self._held = [bytes(part) for part in parts]
            return False
        return self._write_nowait(parts)

    def _write_nowait(self, parts: Sequence[Buffer]) -> bool:
        try:
            return self._below.send_nowait(*parts)
        except BaseException as exc:
            self._torn = exc
            if isinstance(exc, trio.BrokenResourceError):
                raise self._broken("the connection is lost") from exc
            raise

    async def _flush(self) -> None:
        """Write what `_send` has left. Until then, nothing else can be written. If cancelled, it can be called
        again."""
        async with self._write_lock:
            await self._finish()

    async def _write(self, *parts: Buffer) -> None:
        """Write the parts of frames, with nothing in between."""
        await trio.lowlevel.checkpoint_if_cancelled()  # at this point, cancellation leaves no incomplete frame
        async with self._write_lock:
            await self._finish(*parts)

    async def _finish(self, *parts: Buffer) -> None:
        """Write what `_send` has left, and then `parts`. The lock must be held."""
        if self._torn is not None:
            raise self._broken("an earlier frame was not finished") from self._torn
        resumable = not parts
        try:
            await self._below.flush()
            held, self._held = self._held, []
            parts = (*held, *parts)
            if parts and not self._below.send_nowait(*parts):
                await self._below.flush()
        except BaseException as exc:
            if not (resumable and isinstance(exc, trio.Cancelled)):
                self._torn = exc
            if isinstance(exc, trio.BrokenResourceError):
                raise self._broken("the connection is lost") from exc
            raise

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._eof_sent:
            raise trio.ClosedResourceError("the end of data has been sent")
        if self._torn is not None:
            raise trio.BrokenResourceError("an earlier frame was not finished") from self._torn
        if self._lost is not None:
            raise trio.BrokenResourceError(self._lost)

    def _broken(self, why: str, *, receiving: bool = False) -> trio.BrokenResourceError | trio.ClosedResourceError:
        """Return the exception to raise for a connection that failed, possibly because we have closed it
        ourselves."""
        if self._closed:
            return trio.ClosedResourceError("this stream was closed")
        if receiving:
            self._lost = why
        return trio.BrokenResourceError(why)

    async def _wait_readable(self) -> None:
        if self._paused_until is not None:
            await trio.sleep_until(self._paused_until)
            self._paused_until = None
            return
        if self._has_result:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._below.wait_readable()
        except trio.BrokenResourceError as exc:
            raise self._broken("the connection is lost", receiving=True) from exc

    def _receive(self, max_bytes: int) -> Buffer | None:
        """Return payload that has arrived, b"" at the end of data, or None."""
        data = self._receive_all(read_below(max_bytes))
        if data is not None and len(data) > max_bytes:
            # Copied, because the received data is a view that other streams overwrite.
            data, self._kept = data[:max_bytes], memoryview(bytes(data[max_bytes:]))
        return data

    def _receive_all(self, read_bytes: int) -> Buffer | None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._lost is not None:
            raise trio.BrokenResourceError(self._lost)
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        if self._paused_until is not None:
            return None
        turn: Turn | None = None
        received = False
        while True:
            payload = self._decode()
            if payload or self._eof_received:
                return payload
            if self._undecoded:
                return None
            if received:  # only pings and similar frames; there may be more of them
                turn = turn or Turn()
                if turn.is_over(0):
                    return None
            try:
                chunk = self._below.receive_nowait(read_bytes)
            except trio.BrokenResourceError as exc:
                raise self._broken("the connection is lost", receiving=True) from exc
            if chunk is None:
                return None
            if not chunk:
                raise self._broken("the connection ended without an end of data", receiving=True)
            self._decoder.receive_untrusted(chunk)
            received = True

    def _decode(self) -> Buffer:
        """Return the payload of received frames; empty if more bytes are needed or the end of data was reached."""
        pieces: list[Buffer] = []
        frames = 0
        self._undecoded = False
        while not self._eof_received:
            if frames >= MAX_FRAMES_PER_READ:
                self._decoder.keep()
                self._undecoded = True
                self._maybe_pause(sum(map(len, pieces)))
                break
            try:
                event = self._decoder.next_event(_UNLIMITED)
            except FrameError as exc:
                if pieces:
                    self._undecoded = True
                    break  # return what came before; the decoder raises the error again
                self._close_code = PROTOCOL_ERROR
                raise self._broken(f"the peer violated the WebSocket protocol: {exc}", receiving=True) from exc
            frames += 1
            match event:
                case None:
                    break
                case Data(payload):
                    pieces.append(payload)
                case Ping(payload):
                    self._owe_pong(payload)
                case Interrupted():
                    frames += IDLE_FRAMES_AT_ONCE
                case EndOfData():
                    self._eof_received = True
                case Close(code):
                    if pieces:
                        self._undecoded = True
                        break
                    raise self._broken(f"the peer closed without an end of data (code {code})", receiving=True)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _maybe_pause(self, size: int) -> None:
        """Pause if `MAX_FRAMES_PER_READ` frames, which were decoded in one go, have only `size` bytes of payload."""
        if size < MAX_FRAMES_PER_READ * SMALL_FRAME_BYTES:
            pause = PAUSE_SECONDS if size < MAX_FRAMES_PER_READ * TINY_FRAME_BYTES else 0
            self._paused_until = trio.current_time() + pause

    def _owe_pong(self, payload: bytes) -> None:
        self._owed_pong = payload
        if not self._pong_task_runs:
            self._pong_task_runs = True
            # A stream has no nursery, so this is a system task. It ends after its write, or when the stream is
            # closed.
            trio.lowlevel.spawn_system_task(self._send_pongs)

    async def _send_pongs(self) -> None:
        try:
            while self._owed_pong is not None and not self._closed:
                # One pong answers all pings so far. Pings that arrive while this waits for the lock are answered in
                # the next iteration. The lock is released in between, so that a flood of pings does not block
                # senders.
                pong = encode_pong(self._owed_pong, masked=self._client)
                self._owed_pong = None
                await self._write(pong)
        except Exception as exc:  # noqa: BLE001  # would end the program; instead, the next send raises
            self._torn = self._torn or exc
        finally:
            self._pong_task_runs = False
