"""The transport: a greeting in both directions, then frames."""

from __future__ import annotations

import contextlib

import trio

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Port, Route, Transport
from hybridrelay.errors import TransportError
from hybridrelay.streams.listening import StreamListener

from .stream import FramedStream

__all__ = ["GREETING", "STDIO", "ExecTransport"]

#: Sent by both sides before anything else. Another number would mean other frames.
GREETING = b"hybridrelay exec 1\n"
#: A Unix socket in the relay's state directory.
STDIO = Port("stdio", local=True)
#: For what the command does before the relay answers: ssh connects, exchanges keys and authenticates, and the remote
#: side starts a program (seconds).
COMMAND_SECONDS = 20.0
#: How much of an output that is not the relay's is shown (bytes).
_SHOWN_BYTES = 60

_REMEDY = (
    "run the command by hand: it has to run 'hybridrelay relay-stdio --state DIR' on the relay's host, and must "
    "print nothing else to its standard output (a login script may)"
)


class ExecTransport(Transport):
    """A command for each channel. It is used only in mode ``exec``."""

    name = "exec"
    routes = (Route("exec", 40, STDIO, automatic=False, extra_seconds=COMMAND_SECONDS),)

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        """Start the command, and wait for the relay's greeting. See `Transport.connect`."""
        return Connection(await _as_client(await dialer.process()), address.host)

    async def listen(self, binding: Binding) -> Listener:
        """See `Transport.listen`."""
        return await StreamListener.open(binding, _as_server)


async def _as_client(stream: trio.abc.Stream) -> FramedStream:
    try:
        with contextlib.suppress(trio.BrokenResourceError):  # it has ended already, and its output may say why
            await stream.send_all(GREETING)
        await _receive_greeting(stream, "what answers is not a relay", _REMEDY)
    except trio.BrokenResourceError as exc:
        await trio.aclose_forcefully(stream)
        text = "the command ended before the relay answered; the log has what it printed"
        raise TransportError.lost(text, exc) from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return FramedStream(stream)


async def _as_server(stream: trio.abc.Stream) -> FramedStream:
    """See `hybridrelay.streams.listening.StreamHandshake`."""
    try:
        await _receive_greeting(stream, "what connects does not speak this transport")
        await stream.send_all(GREETING)
    except trio.BrokenResourceError as exc:
        await trio.aclose_forcefully(stream)
        raise TransportError.lost("the connection broke before the greeting", exc) from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return FramedStream(stream)


async def _receive_greeting(stream: trio.abc.Stream, otherwise: str, remedy: str | None = None) -> None:
    """Receive the greeting, and nothing after it. What differs from it is noticed at its first byte.

    Raises:
        TransportError: something else was received; it begins with the text `otherwise`.
        trio.BrokenResourceError: nothing was received.
    """
    received = b""
    while received != GREETING:
        data = await stream.receive_some(len(GREETING) - len(received))
        if not data and not received:
            raise trio.BrokenResourceError("the connection ended before the greeting")
        received += data
        if not data or not GREETING.startswith(received):
            shown = received[:_SHOWN_BYTES].decode("ascii", "replace")
            raise TransportError(f"{otherwise}: it says {shown!r}", remedy=remedy)
