"""A byte stream in frames, because the end of a pipe does not show whether all of the data has arrived.

A frame is a length (4 bytes, big-endian) and that many bytes. The length 0 signals the end of the data in that
direction; nothing follows it. If the underlying connection ends without it, the stream is broken: a process was
killed, the network failed, or the peer has aborted.
"""

from __future__ import annotations

import struct

import trio

from hybridrelay.streams.arguments import check_max_bytes
from hybridrelay.streams.conflict import ConflictDetector
from hybridrelay.streams.nowait import READ_BYTES, read_below

__all__ = ["FramedStream"]

#: The longest frame (bytes). A greater length shows that the data is not in this format. (Memory is not the reason:
#: payload is returned as it arrives.)
MAX_FRAME = 1 << 20
#: How much is sent in one frame, and therefore in one write (bytes).
_SENT_FRAME = 64 * 1024
_LENGTH = struct.Struct(">I")
_END_OF_DATA = _LENGTH.pack(0)
#: How long closing tries to signal the end of the data (seconds).
_CLOSE_SECONDS = 5.0


class FramedStream(trio.abc.HalfCloseableStream):
    """A byte stream in frames. It fulfils Trio's contract, and that of `hybridrelay.abc.Connection.stream`.

    Args:
        below: the stream that carries the frames. This stream owns it from now on.
    """

    def __init__(self, below: trio.abc.Stream) -> None:
        self._below = below
        self._sending = ConflictDetector("another task is sending on this stream")
        self._receiving = ConflictDetector("another task is receiving on this stream")
        self._closed = False
        self._end_sent = False
        self._end_received = False
        #: Whether a frame was sent only in part. The peer would interpret anything that follows as the rest of it.
        self._torn = False
        #: Why nothing more can be received; None if more can.
        self._lost: str | None = None
        #: Received bytes that were not decoded yet.
        self._input = bytearray()
        #: How many bytes of payload of the current frame have not been returned yet.
        self._frame_left = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` in frames.

        Raises:
            trio.BusyResourceError, trio.ClosedResourceError: see Trio's contract.
            trio.BrokenResourceError: the connection is lost, or an earlier call was cancelled in the middle of a
                frame.

        If cancelled, any part of the data may have been sent, and the stream can only be closed.
        """
        with self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sendable()
            with memoryview(data).cast("B") as view:
                for start in range(0, len(view), _SENT_FRAME):
                    part = view[start : start + _SENT_FRAME]
                    await self._write(_LENGTH.pack(len(part)) + part)
            if not data:
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream.wait_send_all_might_not_block`."""
        with self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sendable()
            try:
                await self._below.wait_send_all_might_not_block()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise self._broken("the connection is lost") from exc

    async def send_eof(self) -> None:
        """Signal the end of the data. Errors and cancellation are as in `send_all`. Idempotent."""
        with self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._end_sent and not self._closed:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
            self._check_sendable()
            await self._write(_END_OF_DATA)
            self._end_sent = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return data that has arrived, up to `max_bytes`; ``b""`` when the peer has signalled the end of its data.

        Raises:
            trio.BusyResourceError, trio.ClosedResourceError: see Trio's contract.
            trio.BrokenResourceError: the connection ended without a signalled end, or the data is not in frames.

        If cancelled, no data is lost.
        """
        check_max_bytes(max_bytes)
        with self._receiving:
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            while not (data := self._decode(max_bytes or READ_BYTES)) and not self._end_received:
                await self._read(max_bytes or READ_BYTES)
                waited = True
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return data

    async def aclose(self) -> None:
        """Signal the end of the data, if possible, and close the underlying stream. Idempotent.

        If cancelled, the underlying stream is closed without signalling the end, and the peer sees a broken
        connection.
        """
        already, self._closed = self._closed, True
        try:
            announced = self._end_sent or self._torn or self._lost is not None or self._sending.held
            if not already and not announced:
                with trio.move_on_after(_CLOSE_SECONDS):
                    await trio.lowlevel.checkpoint_if_cancelled()
                    await self._below.send_all(_END_OF_DATA)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await self._below.aclose()

    async def _write(self, frame: bytes) -> None:
        self._torn = True
        try:
            await self._below.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._broken("the connection is lost") from exc
        self._torn = False

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._end_sent:
            raise trio.ClosedResourceError("the end of data has been sent")
        if self._torn:
            raise trio.BrokenResourceError("an earlier frame was not finished")

    def _broken(self, why: str) -> trio.BrokenResourceError | trio.ClosedResourceError:
        """Return the exception for a connection that failed, possibly because this side has closed it."""
        if self._closed:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(why)

    async def _read(self, max_bytes: int) -> None:
        """Read once from the stream below."""
        try:
            data = await self._below.receive_some(read_below(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._lose("the connection is lost") from exc
        if not data:
            raise self._lose("the connection ended without an end of data")
        self._input += data

    def _lose(self, why: str) -> trio.BrokenResourceError | trio.ClosedResourceError:
        self._lost = why
        return self._broken(why)

    def _decode(self, max_bytes: int) -> bytes:
        """Return payload that has arrived; empty if more bytes are needed or the end of the data was reached.

        Raises:
            trio.BrokenResourceError: what arrived is not a frame.
        """
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._lost is not None:
            raise trio.BrokenResourceError(self._lost)
        while not self._frame_left and not self._end_received and len(self._input) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._input)
            if length > MAX_FRAME:
                raise self._lose("what arrives is not in frames")
            del self._input[: _LENGTH.size]
            self._frame_left = length
            self._end_received = not length
        if self._end_received:
            if self._input:
                raise self._lose("data follows the end of data")
            return b""
        payload = bytes(self._input[: min(self._frame_left, max_bytes)])
        del self._input[: len(payload)]
        self._frame_left -= len(payload)
        return payload
