"""``relay-stdio``: from two descriptors to the relay's Unix socket, and back."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.abc import Binding
from hybridrelay.errors import StateError
from hybridrelay.relay.stdio import PORT, connect_stdio
from hybridrelay.relay.store.state_dir import local_socket
from hybridrelay.testing import tcp_pair
from hybridrelay_exec import transport
from hybridrelay_exec.transport import GREETING

from ..waiting import patience

END = bytes(4)


@attrs.frozen
class Stdio:
    """The other ends of the two descriptors, and the stream of the relay."""

    into: trio.SocketStream
    out: trio.SocketStream
    relay: trio.abc.HalfCloseableStream
    ended: trio.Event


@contextlib.asynccontextmanager
async def running(state: Path) -> AsyncIterator[Stdio]:
    into, stdin = await tcp_pair()
    out, stdout = await tcp_pair()
    ended = trio.Event()

    async def run() -> None:
        await connect_stdio(state, stdin=stdin.socket.fileno(), stdout=stdout.socket.fileno())
        ended.set()

    async with await transport.listen(Binding("", 0, local_socket(state, PORT))) as listener:
        async with into, out, stdin, stdout, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await into.send_all(GREETING)
            connection = await (await listener.accept()).handshake()
            assert connection is not None
            assert await out.receive_some() == GREETING
            async with connection.stream:
                yield Stdio(into, out, connection.stream, ended)
            nursery.cancel_scope.cancel()


async def test_bytes_are_framed_on_standard_input_and_output(tmp_path: Path) -> None:
    async with running(tmp_path) as stdio:
        await stdio.into.send_all(b"\0\0\0\x03abc")
        assert await stdio.relay.receive_some() == b"abc"
        await stdio.relay.send_all(b"de")
        assert await stdio.out.receive_some() == b"\0\0\0\x02de"


async def test_it_ends_when_the_relay_closes(tmp_path: Path) -> None:
    async with running(tmp_path) as stdio:
        await stdio.relay.send_all(b"last")
        await stdio.relay.aclose()
        await stdio.ended.wait()
        assert await stdio.out.receive_some() == b"\0\0\0\x04last" + END


async def test_an_announced_end_of_standard_input_is_an_end_of_data(tmp_path: Path) -> None:
    async with running(tmp_path) as stdio:
        await stdio.into.send_all(b"\0\0\0\x01x" + END)
        await stdio.into.send_eof()
        assert await stdio.relay.receive_some() == b"x"
        assert await stdio.relay.receive_some() == b""
        await stdio.relay.aclose()
        await stdio.ended.wait()


async def test_an_end_that_is_not_announced_is_a_break(tmp_path: Path) -> None:
    async with running(tmp_path) as stdio:
        await stdio.into.send_all(b"\0\0\0\x01x")
        await stdio.into.send_eof()
        assert await stdio.relay.receive_some() == b"x"
        with pytest.raises(trio.BrokenResourceError):
            await stdio.relay.receive_some()


async def test_it_ends_when_standard_input_does_even_if_the_relay_does_not(tmp_path: Path) -> None:
    async with running(tmp_path) as stdio:
        await stdio.into.send_eof()
        with trio.fail_after(patience(20)):
            await stdio.ended.wait()


async def test_only_the_owner_may_connect_and_a_long_path_is_not_a_problem(tmp_path: Path) -> None:
    state = tmp_path.joinpath(*["a" * 60] * 3)
    state.mkdir(parents=True)
    async with running(state) as stdio:
        assert stat.S_IMODE(local_socket(state, PORT).stat().st_mode) == 0o600
        await stdio.into.send_all(b"\0\0\0\x01x")
        assert await stdio.relay.receive_some() == b"x"
    assert not local_socket(state, PORT).exists(), "the listener removes its file"


async def test_a_socket_that_was_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = local_socket(tmp_path, PORT)
    listener = await transport.listen(Binding("", 0, path))
    os.link(path, tmp_path / "left")
    await listener.aclose()
    os.rename(tmp_path / "left", path)
    async with running(tmp_path):
        pass
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        await transport.listen(Binding("", 0, path))
    assert path.read_text() == "precious"


async def test_an_error_says_that_no_relay_runs(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no connection to the relay") as caught:
        await connect_stdio(tmp_path)
    assert caught.value.remedy
