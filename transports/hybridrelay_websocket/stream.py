"""A byte stream over a connection on which the WebSocket handshake is done.

Who writes: every frame is written under one lock, whole. Users' calls take turns by contract
(`trio.BusyResourceError` otherwise); the only other writer answers pings. The reader never writes, so that a clogged
peer cannot stop it: it notes the pong that is owed, and a task that lives no longer than that write sends it.
"""

from __future__ import annotations

import contextlib

import trio

from hybridrelay.streams.conflict import ConflictDetector

from .frames import (
    END_OF_DATA,
    Close,
    Data,
    EndOfData,
    FrameDecoder,
    FrameError,
    Ping,
    encode_close,
    encode_data,
    encode_pong,
)

__all__ = ["WebSocketStream"]

#: How much is read at once (bytes). 4 KiB, a usual default, costs an order of magnitude in speed.
RECEIVE_SIZE = 256 * 1024
#: The longest message we send (bytes). Larger ones gain nothing; intermediaries may hold a message until it is whole.
MAX_MESSAGE = 256 * 1024
#: Up to here (bytes) header and payload are copied together and leave in one system call; above, copying costs more.
JOIN_LIMIT = 128 * 1024
#: Pieces that have already arrived are handed out together up to this many bytes, and larger ones as they are:
#: copying beats a further wake-up only while they are small.
GATHER_LIMIT = 32 * 1024
#: How long `WebSocketStream.aclose` tries to say goodbye (seconds) before it just closes: enough for a slow link to
#: take the last few frames, short enough that a peer which reads nothing holds up nobody.
CLOSE_TIMEOUT = 5
#: RFC 6455 section 7.4.1.
NORMAL_CLOSURE = 1000
PROTOCOL_ERROR = 1002


class WebSocketStream(trio.abc.HalfCloseableStream):
    """See the module's description; the contract is trio's, and `hybridrelay.abc.Transport.connect`'s.

    Args:
        transport_stream: what the handshake ran on. This stream owns it from now on.
        client: whether we are the client, whose frames are masked.
        received: what was already read behind the handshake.
    """

    def __init__(self, transport_stream: trio.abc.Stream, *, client: bool, received: bytes = b"") -> None:
        #: Below this stream: a socket, or TLS on one.
        self.transport_stream = transport_stream
        self._client = client
        self._decoder = FrameDecoder(masked=not client)
        self._decoder.receive_untrusted(received)
        self._sending = ConflictDetector("another task is sending on this WebSocket stream")
        self._receiving = ConflictDetector("another task is receiving on this WebSocket stream")
        #: Held while a frame is being written.
        self._write_lock = trio.Lock()
        #: The payload of the last ping that has not been answered yet.
        self._owed_pong: bytes | None = None
        self._pong_task_runs = False
        self._closed = False
        self._eof_sent = False
        self._eof_received = False
        #: Why nothing more can be received; then nothing is sent either.
        self._lost: str | None = None
        #: What left a frame unfinished: anything written now would be taken for its payload.
        self._torn: BaseException | None = None
        self._close_code = NORMAL_CLOSURE

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` as binary messages.

        Raises:
            trio.BusyResourceError, trio.ClosedResourceError: as trio's contract says.
            trio.BrokenResourceError: the connection is lost, the peer closed it or broke the protocol, or an earlier
                call was cancelled in the middle of a frame.

        Cancelled, it may have sent any part of the data; the stream can then only be closed.
        """
        with self._sending:
            self._check_sendable()
            view = memoryview(data).cast("B")
            if not view:
                await trio.lowlevel.checkpoint()
                return
            for start in range(0, len(view), MAX_MESSAGE):
                await self._write_data(view[start : start + MAX_MESSAGE])

    async def send_eof(self) -> None:
        """Send the end of data. Raises and is cancelled like `send_all`; a second call does nothing."""
        with self._sending:
            if self._eof_sent and not self._closed:
                await trio.lowlevel.checkpoint()
                return
            self._check_sendable()
            await self._write_data(END_OF_DATA)
            self._eof_sent = True

    async def wait_send_all_might_not_block(self) -> None:
        """See trio's contract. Raises like `send_all`; cancelling it changes nothing."""
        with self._sending:
            self._check_sendable()
            async with self._write_lock:
                try:
                    await self.transport_stream.wait_send_all_might_not_block()
                except trio.BrokenResourceError as exc:
                    raise self._broken("the connection is lost") from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what is there, up to ``max_bytes``; ``b""`` once the peer has said that its data ends.

        Raises:
            trio.BusyResourceError, trio.ClosedResourceError: as trio's contract says.
            trio.BrokenResourceError: the peer closed without ending its data, broke the protocol, or is gone.

        Cancelled, it loses nothing.
        """
        if max_bytes is not None and not isinstance(max_bytes, int):
            raise TypeError("max_bytes must be an integer or None")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self._lost is not None:
                raise trio.BrokenResourceError(self._lost)
            payload = self._take_received(max_bytes or RECEIVE_SIZE)
            if payload or self._eof_received:
                await trio.lowlevel.checkpoint()
            while not payload and not self._eof_received:
                try:
                    chunk = await self.transport_stream.receive_some(RECEIVE_SIZE)
                except trio.BrokenResourceError as exc:
                    raise self._broken("the connection is lost", receiving=True) from exc
                if not chunk:
                    raise self._broken("the connection ended without an end of data", receiving=True)
                self._decoder.receive_untrusted(bytes(chunk))
                payload = self._take_received(max_bytes or RECEIVE_SIZE)
        return payload

    async def aclose(self) -> None:
        """Say the end of data and Close 1000 where that is possible within `CLOSE_TIMEOUT`, then close what is below.

        After a violation by the peer it is Close 1002, after any other loss Close 1000 without an end of data, so
        that the peer does not take what it got for complete. Idempotent. Cancelled, it closes all the same, and says
        nothing: the peer sees a break.
        """
        if self._closed:
            await self.transport_stream.aclose()
            return
        self._closed = True
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(CLOSE_TIMEOUT):
                try:
                    await self._say_goodbye()
                finally:
                    await self.transport_stream.aclose()

    async def _say_goodbye(self) -> None:
        if self._sending.held:
            return  # a frame of another task is under way, and may stay so for ever
        frames = encode_close(self._close_code, masked=self._client)
        if self._lost is None and not self._eof_sent:
            frames = b"".join(encode_data(END_OF_DATA, masked=self._client)) + frames
        await self._write(frames)

    async def _write_data(self, payload: bytes | memoryview) -> None:
        header, body = encode_data(payload, masked=self._client)
        if len(body) <= JOIN_LIMIT:
            await self._write(b"".join((header, body)))
        else:
            await self._write(header, body)

    async def _write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Write the parts of a frame, or whole frames, with nothing in between."""
        await trio.lowlevel.checkpoint_if_cancelled()  # cancelled before the first byte, it tears nothing
        try:
            self._write_lock.acquire_nowait()  # costs no pass through the scheduler, unlike acquire()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            if self._torn is not None:
                raise self._broken("an earlier frame was not finished") from self._torn
            try:
                for part in parts:
                    await self.transport_stream.send_all(part)
            except BaseException as exc:
                self._torn = exc
                raise
        except trio.BrokenResourceError as exc:
            raise self._broken("the connection is lost") from exc
        finally:
            self._write_lock.release()

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
        """The exception to raise for a connection that failed; where we closed it ourselves, that is why."""
        if self._closed:
            return trio.ClosedResourceError("this stream was closed")
        if receiving:
            self._lost = why
        return trio.BrokenResourceError(why)

    def _take_received(self, max_bytes: int) -> bytes:
        """Decode what has arrived: some payload, or none if more is needed or the end of data has come."""
        pieces: list[bytes] = []
        size = 0
        while size < min(max_bytes, GATHER_LIMIT) and not self._eof_received:
            try:
                event = self._decoder.next_event(max_bytes - size)
            except FrameError as exc:
                if pieces:
                    break  # first what came before; the decoder raises it again
                self._close_code = PROTOCOL_ERROR
                raise self._broken(f"the peer broke the WebSocket protocol: {exc}", receiving=True) from exc
            match event:
                case None:
                    break
                case Data(payload):
                    pieces.append(payload)
                    size += len(payload)
                case Ping(payload):
                    self._owe_pong(payload)
                case EndOfData():
                    self._eof_received = True
                case Close(code):
                    if pieces:
                        break
                    raise self._broken(f"the peer closed without an end of data (code {code})", receiving=True)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _owe_pong(self, payload: bytes) -> None:
        self._owed_pong = payload
        if not self._pong_task_runs:
            self._pong_task_runs = True
            # A stream has no nursery. This task ends with its write, at the latest when the stream is closed.
            trio.lowlevel.spawn_system_task(self._send_pongs)

    async def _send_pongs(self) -> None:
        try:
            while self._owed_pong is not None and not self._closed:
                # Taken here and sent when our turn comes: one pong for all pings until now, and another for what came
                # while we waited. Every round is a turn of its own, so that a flood of pings keeps no sender waiting.
                pong = encode_pong(self._owed_pong, masked=self._client)
                self._owed_pong = None
                await self._write(pong)
        except Exception as exc:  # noqa: BLE001  # would end the whole program; the next to send or receive sees it
            self._torn = self._torn or exc
        finally:
            self._pong_task_runs = False
