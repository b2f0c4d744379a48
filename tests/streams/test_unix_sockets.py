"""The files of Unix sockets: how long their paths may be, and who removes which."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest
import trio

from hybridrelay._threads import run_in_thread
from hybridrelay.streams import unix_sockets
from hybridrelay.streams.path_threads import THREADS_PER_PATH, PathSilent
from hybridrelay.streams.unix_sockets import (
    UnixSocketFile,
    connect_unix_socket,
    is_listening,
    listen_unix_socket,
    short_path,
)

from ..full_queue import full_queue
from ..waiting import async_wait_until, patience

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")


async def test_the_file_is_removed_once(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    listener, file = await listen_unix_socket(path)
    async with listener:
        file.remove()
        assert not path.exists()
        path.write_text("of somebody else")
        file.remove()
        assert path.exists()


async def test_the_socket_of_a_later_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    earlier, file = await listen_unix_socket(path)
    later, later_file = await listen_unix_socket(path)
    async with earlier, later:
        file.remove()
        await trio.aclose_forcefully(await connect_unix_socket(path))
        later_file.remove()
    assert not path.exists()


async def test_a_file_that_is_gone_is_not_an_error(tmp_path: Path) -> None:
    listener, file = await listen_unix_socket(tmp_path / "a.sock")
    async with listener:
        (tmp_path / "a.sock").unlink()
        file.remove()


@pytest.mark.parametrize("umask", [0o022, 0o077])
async def test_the_file_has_its_mode_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener, _ = await listen_unix_socket(tmp_path / "a.sock", mode=0o666)
    finally:
        os.umask(before)
    async with listener:
        assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o666


@pytest.mark.parametrize("kind", ["link", "file", "second name of a socket"])
@pytest.mark.skipif(sys.platform != "linux", reason="the mode is changed in another way on other systems")
async def test_the_mode_of_nothing_else_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The owner of the directory replaces the socket before it gets its mode."""
    path, other = tmp_path / "a.sock", tmp_path / "other"
    if kind == "second name of a socket":
        with socket.socket(socket.AF_UNIX) as sock:
            with short_path(other) as name:
                sock.bind(name)
    else:
        other.touch()
    other.chmod(0o600)
    set_mode = unix_sockets._set_mode

    def swap_first(path: Path, mode: int) -> None:
        path.unlink()
        if kind == "link":
            path.symlink_to(other)
        else:
            path.hardlink_to(other)
        set_mode(path, mode)

    monkeypatch.setattr(unix_sockets, "_set_mode", swap_first)
    with pytest.raises(FileExistsError):
        await listen_unix_socket(path, mode=0o666)
    assert stat.S_IMODE(other.stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="there are no longer paths on other systems")
async def test_the_path_may_be_longer_than_the_address_of_a_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("a" * 200)
    directory.mkdir()
    path = directory / "a.sock"
    descriptors = len(os.listdir("/proc/self/fd"))
    listener, file = await listen_unix_socket(path)
    async with listener, await connect_unix_socket(path) as near, await listener.accept() as far:
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        file.remove()
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another limit for the whole path")
async def test_a_name_that_is_too_long_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 150)
    for attempt in (listen_unix_socket, connect_unix_socket):
        with pytest.raises(OSError, match="too long for a Unix socket") as caught:
            await attempt(path)
        assert caught.value.errno == errno.ENAMETOOLONG
        assert caught.value.filename == str(path)


def test_a_short_path_is_used_as_it_is() -> None:
    with short_path(Path("relative.sock")) as name:
        assert name == "relative.sock"


async def echo_once(listener: trio.SocketListener, answer: bytes) -> None:
    async with await listener.accept() as stream:
        await stream.send_all(answer)


async def answer_of(file: UnixSocketFile) -> bytes:
    async with await file.connect() as stream:
        return bytes(await stream.receive_some())


async def test_the_path_of_a_socket_is_found_without_links(tmp_path: Path, nursery: trio.Nursery) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "run" / "other").symlink_to("db.sock")
    listener, _ = await listen_unix_socket(tmp_path / "run" / "db.sock")
    async with listener:
        for path in ("run/db.sock", "link/db.sock", "run/../link/other", "link/../run/./db.sock"):
            nursery.start_soon(echo_once, listener, b"here")
            with await UnixSocketFile.open(f"{tmp_path}/{path}") as file:
                assert file.path == os.path.realpath(tmp_path / "run" / "db.sock")
                assert await answer_of(file) == b"here"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only the path")
async def test_what_was_found_stays_the_same(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Somebody replaces a part of the path between the check and the connection."""
    for name in ("allowed", "secret"):
        (tmp_path / name).mkdir()
    allowed, _ = await listen_unix_socket(tmp_path / "allowed" / "s")
    secret, _ = await listen_unix_socket(tmp_path / "secret" / "s")
    link = tmp_path / "link"
    link.symlink_to("allowed")
    async with allowed, secret:
        with await UnixSocketFile.open(f"{link}/s") as file:
            link.unlink()
            link.symlink_to("secret")
            (tmp_path / "allowed" / "s").rename(tmp_path / "allowed" / "elsewhere")
            (tmp_path / "allowed" / "s").symlink_to("../secret/s")
            nursery.start_soon(echo_once, allowed, b"allowed")
            assert await answer_of(file) == b"allowed"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only the path")
async def test_a_socket_that_is_removed_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path, to which the kernel adds "(deleted)", is not shown to the policy."""
    path = tmp_path / "db.sock"
    listener, _ = await listen_unix_socket(path)
    real = os.open

    def open_and_remove(name: str, flags: int) -> int:
        descriptor = real(name, flags)
        if name == str(path):
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_remove)
    async with listener:
        with pytest.raises(FileNotFoundError):
            await UnixSocketFile.open(str(path))


async def test_what_is_not_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    for name, number in (
        ("file", errno.ENOTSOCK),
        ("nothing", errno.ENOENT),
        ("dangling", errno.ENOENT),
        ("loop", errno.ELOOP),
        ("file/x", errno.ENOTDIR),
        (".", errno.ENOTSOCK),
    ):
        with pytest.raises(OSError) as caught:
            await UnixSocketFile.open(f"{tmp_path}/{name}")
        assert caught.value.errno == number, name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer in other ways")
async def test_a_full_queue_is_waited_for(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The system says at once that the queue is full. This is not a connection."""
    path = tmp_path / "s"
    with full_queue(path) as server, contextlib.ExitStack() as accepted:
        assert await is_listening(path), "found out without waiting"
        with trio.move_on_after(60) as scope:
            await connect_unix_socket(path)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:

            async def accept_later() -> None:
                await trio.sleep(10)
                server.accept()[0].close()

            nursery.start_soon(accept_later)
            async with await connect_unix_socket(path) as stream:
                await stream.send_all(b"x")
                connection = accepted.enter_context(server.accept()[0])
                assert connection.recv(1) == b"x"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep no descriptor")
async def test_cancellation_leaves_no_descriptor(tmp_path: Path) -> None:
    """Whether the thread has found the file before, or finds it after that."""
    listener, _ = await listen_unix_socket(tmp_path / "s")
    path = os.path.realpath(tmp_path / "s")

    async def is_closed() -> bool:
        return all(os.path.realpath(link) != path for link in Path("/proc/self/fd").iterdir())

    async with listener:
        for pause in (0, 1, 2, 5, 20):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel(pause: int = pause, scope: trio.CancelScope = scope) -> None:
                        for _ in range(pause):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cancel)
                    with await UnixSocketFile.open(path):
                        pass
            await async_wait_until(is_closed, seconds=patience(20), what="the file of the socket is closed")


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
async def test_only_a_socket_is_replaced(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "a.sock", tmp_path / "other"
    other.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "link":
        path.symlink_to(other)
    else:
        path.mkdir()
    with pytest.raises(FileExistsError, match="not a socket"):
        await listen_unix_socket(path)
    assert path.exists()
    assert path.is_symlink() == (kind == "link")
    assert other.read_text() == "precious"


async def test_a_file_system_that_does_not_answer_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is read in other threads, nor the sockets at other paths."""
    answers = threading.Event()
    begun = threading.Semaphore(0)
    find_socket = unix_sockets._find_socket

    def find(path: str) -> tuple[str, int | None]:
        if path == "/nowhere/s":
            begun.release()
            answers.wait(patience(20))
        return find_socket(path)

    async def look() -> None:
        with contextlib.suppress(FileNotFoundError, PathSilent):
            await UnixSocketFile.open("/nowhere/s")

    monkeypatch.setattr(unix_sockets, "_find_socket", find)
    listener, _ = await listen_unix_socket(tmp_path / "s")
    try:
        async with listener, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(look)
            for _ in range(THREADS_PER_PATH):
                assert await trio.to_thread.run_sync(begun.acquire, True, patience(20))
            with trio.fail_after(patience(20)):
                assert await run_in_thread(lambda: "keys and policies") == "keys and policies"
                with await UnixSocketFile.open(f"{tmp_path}/s") as file:
                    assert file.path == os.path.realpath(tmp_path / "s")
                with pytest.raises(PathSilent, match="the file system does not answer: '/nowhere/s'"):
                    await UnixSocketFile.open("/nowhere/s")
            assert not begun.acquire(blocking=False)
            nursery.cancel_scope.cancel()
    finally:
        answers.set()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may enter all directories")
async def test_what_is_in_a_directory_that_may_not_be_entered_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(PermissionError):
        await is_listening(tmp_path / "closed" / "s")
