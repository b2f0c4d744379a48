"""The transport `exec`: a greeting in both directions, then frames."""

from __future__ import annotations

import contextlib

import trio

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Port, Route, Transport
from hybridrelay.errors import TransportError
from hybridrelay.streams.listening import StreamListener

from .stream import FramedStream

__all__ = ["GREETING", "STDIO", "ExecTransport"]

#: Sent by both sides before anything else. The number is the version of the frame format.
GREETING = b"hybridrelay exec 1\n"
#: A Unix socket in the relay's state directory.
STDIO = Port("stdio", local=True)
#: The additional time until the relay answers (seconds), because ssh has to connect, exchange keys, authenticate, and
#: start a program on the remote side.
COMMAND_SECONDS = 20.0
#: How much of an unexpected output is shown (bytes).
_SHOWN_BYTES = 60

_REMEDY = (
    "run the command by hand: it has to run 'hybridrelay relay-stdio --state DIR' on the relay's host, and must "
    "print nothing else to its standard output (a login script may)"
)


class ExecTransport(Transport):
    """Runs a command for each channel. Used only in mode ``exec``."""

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
        with contextlib.suppress(trio.BrokenResourceError):  # the command has ended; its output may say why
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
    """Receive the greeting, and nothing after it. The first byte that differs raises the error.

    Raises:
        TransportError: something else was received. Its message begins with the text `otherwise`.
        trio.BrokenResourceError: the connection ended before anything was received.
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
