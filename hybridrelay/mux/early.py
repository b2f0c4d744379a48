"""A session whose peer has not authenticated yet: one stream, no tasks, and little memory.

A `Session` runs tasks for each channel, and registers it with the reactor. An `EarlySession` does neither: the task
that waits for the peer's next message reads the channel, passes what arrives to the core, and writes the answers.
`take_over` continues with a `Session` that has the same core, channel and stream; nothing is lost.
"""

from __future__ import annotations

import trio

from ..protocol import SessionCore, SessionRole, events
from ..protocol.config import CONTROL_CONFIG, SessionConfig
from ..protocol.reasons import Reason
from ..protocol.stream import Stream
from ..streams.nowait import HELD_FOR_STRANGER, SMALL_READ_BYTES, nowait
from ..streams.turns import SharedTurns
from ._channel import CLOSING_TIMEOUT
from .session import Session
from .stream import MuxStream

__all__ = ["EarlySession"]

#: How many bytes and frames a session may receive before its peer has authenticated, and in how many reads: enough
#: for a few requests of at most 8 KiB each. Frames and reads are limited because each of them takes processor time,
#: whatever its content.
MAX_EARLY_BYTES = 128 * 1024
MAX_EARLY_FRAMES = 512
MAX_EARLY_READS = 512


class EarlySession:
    """The acceptor's side of a session with one stream. All methods are called by one task.

    Args:
        channel: the channel, which belongs to the caller until `take_over`. After any exception, it can only be
            closed.
        config: the configuration of the session.
    """

    __slots__ = ("_bytes", "_channel", "_core", "_nowait", "_reads", "_stream")

    def __init__(self, channel: trio.abc.Stream, *, config: SessionConfig = CONTROL_CONFIG) -> None:
        self._channel = channel
        self._nowait = nowait(channel)
        self._core = SessionCore(SessionRole.ACCEPTOR, config=config)
        self._core.channel_opened(trio.current_time())
        #: The peer's stream, once it has opened one. It is accepted at once.
        self._stream: Stream | None = None
        #: What was received so far.
        self._bytes = self._reads = 0

    async def receive_some(self, *, held: int = 0) -> bytes:
        """Receive data from the peer's stream; b"" means its end. The stream is accepted as soon as the peer opens
        it.

        Args:
            held: how many bytes of an incomplete message the caller holds. All layers together may hold about
                `HELD_FOR_STRANGER` bytes; if the peer begins a frame or TLS record that would exceed this, the
                session ends.

        Raises:
            trio.BrokenResourceError: the channel was lost, the session ended (for instance because the peer has sent
                too much before authenticating), or the stream was reset.
        """
        core = self._core
        while True:
            if (stream := self._stream) is not None:
                if stream.receive_queue:
                    data = core.read(stream, HELD_FOR_STRANGER, trio.current_time())
                    await self._write()
                    return data
                if stream.at_eof:
                    return b""
                if stream.is_aborted:
                    raise trio.BrokenResourceError(stream.reason.describe)
            if core.ended is not None:
                raise trio.BrokenResourceError(core.ended.text or core.ended.reason.describe)
            core.limit_data(HELD_FOR_STRANGER - held)
            self._nowait.limit_held(HELD_FOR_STRANGER - held - core.held_bytes)
            received = await self._channel.receive_some(SMALL_READ_BYTES)
            if not received:
                raise trio.BrokenResourceError("the channel was lost")
            self._reads += 1
            self._bytes += len(received)
            self._dispatch(core.receive_data(received, trio.current_time()))
            del received  # otherwise it would stay in memory while this waits for more
            if (
                self._bytes > MAX_EARLY_BYTES
                or self._reads > MAX_EARLY_READS
                or core.frames_received > MAX_EARLY_FRAMES
            ):
                self._dispatch(core.close(Reason.LIMIT, "too much was sent before a valid token"))
            await self._write()

    async def send_whole(self, data: bytes) -> None:
        """Send on the peer's stream. The peer must have opened it, so call `receive_some` first.

        Raises:
            trio.BrokenResourceError: the channel was lost, or the peer has stopped reading.
        """
        assert self._stream is not None
        if not self._stream.can_send:
            raise trio.BrokenResourceError("the peer has stopped reading")
        self._core.send_data(self._stream, data)
        await self._write()

    async def aclose(self, reason: Reason, text: str = "") -> None:
        """End the session and close the channel. The reason is sent to the peer if that is possible within
        `CLOSING_TIMEOUT`."""
        self._core.close(reason, text)
        try:
            with trio.move_on_after(CLOSING_TIMEOUT):
                await self._write()
                # Let the peer close first: closing a connection with unread data resets it, and the reason would be
                # lost.
                while await self._channel.receive_some(SMALL_READ_BYTES):
                    pass
                await self._channel.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is gone
        finally:
            await trio.aclose_forcefully(self._channel)

    def take_over(self, turns: SharedTurns | None = None) -> tuple[Session, MuxStream]:
        """Continue with a `Session`, whose `run` serves this channel; the limits for strangers are lifted.

        Args:
            turns: see `Session`.

        Returns:
            The session, and the stream that the peer has opened.
        """
        assert self._stream is not None
        self._core.limit_data(None)
        self._nowait.limit_held(None)
        return Session.take_over(self._core, self._stream, turns)

    async def _write(self) -> None:
        core = self._core
        while buffers := core.data_to_send(trio.current_time()):
            core.pending_events()
            await self._channel.send_all(b"".join(buffers))

    def _dispatch(self, happened: list[events.SessionEvent]) -> None:
        for event in happened:
            if not isinstance(event, events.StreamOffered) or event.stream.is_aborted:
                continue
            if self._stream is None:
                self._stream = event.stream
                self._core.accept(event.stream, trio.current_time())
            elif self._core.ended is None:
                self._core.refuse(event.stream, Reason.LIMIT)
