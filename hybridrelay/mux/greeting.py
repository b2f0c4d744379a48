"""How an acceptor handles a channel before it knows to which session the channel belongs."""

from __future__ import annotations

import trio

from ..errors import SessionError
from ..protocol.errors import RemoteProtocolError
from ..protocol.frames import FrameDecoder, GoAway, Hello, clip_text
from ..protocol.reasons import Reason
from ..streams.nowait import SMALL_READ_BYTES
from ._channel import CLOSING_TIMEOUT

__all__ = ["epoch_of", "receive_hello", "refuse_session"]


def epoch_of(initial: bytes) -> int:
    """Return the epoch in the HELLO with which `initial` begins; -1 if there is no complete HELLO."""
    for frame in FrameDecoder().decode_untrusted(initial):
        return frame.epoch if isinstance(frame, Hello) else -1
    return -1


async def refuse_session(channel: trio.abc.Stream, reason: Reason, text: str = "") -> None:
    """Send only a final GOAWAY on a channel, and close it. Takes at most `CLOSING_TIMEOUT`."""
    with trio.move_on_after(CLOSING_TIMEOUT):
        try:
            await channel.send_all(GoAway(reason, 0, final=True, text=clip_text(text)).encode())
            await channel.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer closed the channel first
    await trio.aclose_forcefully(channel)


async def receive_hello(channel: trio.abc.Stream) -> tuple[Hello, bytes]:
    """Read the peer's HELLO from a new channel. It says to which session the channel belongs.

    Returns:
        HELLO, and all bytes that were read, for the argument `initial` of `Session.run` or `Session.replace_channel`.

    Raises:
        SessionError: the channel was lost first, or begins with another frame. The channel is still open.

    The caller sets the deadline.
    """
    decoder = FrameDecoder(max_data=0)
    received = b""
    while True:
        try:
            data = bytes(await channel.receive_some(SMALL_READ_BYTES))
            if not data:
                raise SessionError("the channel ended before HELLO", reason=Reason.SESSION_LOST)
            received += data
            for frame in decoder.decode_untrusted(data):
                if isinstance(frame, Hello):
                    return frame, received
                reason = frame.reason if isinstance(frame, GoAway) else Reason.PROTOCOL_ERROR
                raise SessionError(f"{type(frame).__name__} in place of HELLO", reason=reason)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise SessionError(f"the channel was lost before HELLO: {exc}", reason=Reason.SESSION_LOST) from exc
        except RemoteProtocolError as exc:
            raise SessionError(str(exc), reason=exc.reason) from exc
