"""Processes that use sockets: how they exit, are killed, and fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from hybridrelay.security import HostPort, Role

from ...receiving import receive_all
from ...system.deployment import serve_target
from .accepted import Targets
from .conftest import Site

BEGIN = """
import os, signal, socket, sys
from hybridrelay import forward_in_thread, load_connection_string, open_socket

string = load_connection_string(sys.argv[1])
"""
SIZE = 3_000_000


class Published(Targets):
    """A target, and programs that connect to it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    async def start(self, nursery: trio.Nursery, script: str) -> trio.Process:
        """Start a program that has the string in `string`."""
        process: trio.Process = await nursery.start(
            lambda task_status: trio.run_process(
                [sys.executable, "-c", BEGIN + script, self.file],
                stdin=subprocess.PIPE,
                stdout=None,
                check=False,
                task_status=task_status,
            )
        )
        return process


@pytest.fixture
async def published(site: Site, tmp_path: Path) -> Published:
    """A target that a connector publishes which resets streams as soon as a session is lost."""
    deployment = site.deployment
    made = deployment.publish("db")
    file = tmp_path / "application.txt"
    published = Published(file)
    target = await serve_target(deployment.nursery, published.handle)
    connector = deployment.string(made, Role.CONNECTOR, HostPort(*target) if isinstance(target, tuple) else target)
    await deployment.connector(connector, resume_deadline=0.0)
    file.write_text(deployment.string(made, Role.APPLICATION).format())
    file.chmod(0o600)
    return published


async def test_what_was_sent_is_delivered_when_the_interpreter_exits(
    published: Published, nursery: trio.Nursery
) -> None:
    """The socket was not closed. With any other socket, the system closes it, and delivers what is in its buffers."""
    process = await published.start(nursery, f"sock = open_socket(string)\nsock.sendall(bytes({SIZE}))")
    received = await receive_all(await published.accept())
    assert len(received) == SIZE
    assert await process.wait() == 0
    nursery.cancel_scope.cancel()


async def test_an_exit_does_not_wait_for_a_target_that_has_more_to_say(
    published: Published, nursery: trio.Nursery
) -> None:
    process = await published.start(nursery, "sock = open_socket(string)\nsock.sendall(b'x')\nsock.recv(1)")
    target = await published.accept()
    assert await target.receive_some(1) == b"x"
    await target.send_all(b"more than is read")
    assert await process.wait() == 0
    assert await receive_all(target) == b"", "an end of file, as from any program that exits"
    nursery.cancel_scope.cancel()


async def test_what_cannot_be_delivered_at_the_exit_does_not_seem_complete(
    published: Published, nursery: trio.Nursery
) -> None:
    """The target does not read, so the last bytes stay in the process until its time is over."""
    script = """
import hybridrelay.client.embedding.background as background
background._STOP_SECONDS = 0.1
sock = open_socket(string)
sock.settimeout(1)
try:
    sock.sendall(bytes(1 << 28))
except TimeoutError:
    pass
"""
    process = await published.start(nursery, script)
    target = await published.accept()
    assert await process.wait() == 0
    with pytest.raises(trio.BrokenResourceError):
        await receive_all(target)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "sys.exit('no')", "os.kill(os.getpid(), signal.SIGINT)"])
async def test_every_orderly_end_exits_at_once(published: Published, nursery: trio.Nursery, end: str) -> None:
    """An open socket, one that another thread waits for, and an open forward."""
    script = f"""
import threading
sock = open_socket(string)
threading.Thread(target=lambda: sock.recv(1), daemon=True).start()
forward = forward_in_thread(string)
forward.__enter__()
sock.sendall(b"x")
{end}
"""
    process = await published.start(nursery, script)
    target = await published.accept()
    assert await receive_all(target) == b"x"
    expected = {"": 0, "raise SystemExit(3)": 3, "sys.exit('no')": 1}.get(end, -signal.SIGINT)
    assert await process.wait() == expected
    nursery.cancel_scope.cancel()


async def test_a_process_that_is_killed_ends_nothing_in_order(published: Published, nursery: trio.Nursery) -> None:
    process = await published.start(nursery, "sock = open_socket(string)\nsock.sendall(b'half of ')\nsock.recv(1)")
    target = await published.accept()
    assert await target.receive_some() == b"half of "
    process.kill()
    with pytest.raises(trio.BrokenResourceError):
        await target.receive_some()
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_has_a_thread_of_its_own(published: Published, nursery: trio.Nursery) -> None:
    script = """
first = open_socket(string)
first.sendall(b"parent")
pid = os.fork()
sock = open_socket(string) if pid == 0 else first
sock.sendall(b"child" if pid == 0 else b", again")
sock.shutdown(socket.SHUT_WR)
assert sock.recv(1) == b"", "the target ends"
if pid:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    process = await published.start(nursery, script)
    parent = await published.accept()
    child = await published.accept()
    for target, expected in ((child, b"child"), (parent, b"parent, again")):
        assert await receive_all(target) == expected
        await target.send_eof()
    assert await process.wait() == 0
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_child_does_not_keep_the_parents_connections_and_ports(
    published: Published, nursery: trio.Nursery
) -> None:
    """The child lives on. In the parent, a reset is nevertheless seen at once, and its port is closed at its end."""
    script = """
sock = open_socket(string)
with forward_in_thread(string) as address:
    pid = os.fork()
    if pid == 0:
        sock.close()
        sys.stdin.read()
        os._exit(0)
    sock.sendall(b"x")
    try:
        sys.exit(f"received {sock.recv(1)!r}")
    except ConnectionResetError:
        pass
try:
    socket.create_connection(address)
    sys.exit("the port is still open")
except ConnectionRefusedError:
    pass
os.close(sys.stdin.fileno())
"""
    process = await published.start(nursery, script)
    target = await published.accept()
    assert await target.receive_some() == b"x"
    target.socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of zero: a reset
    target.socket.close()
    assert await process.wait() == 0
    assert process.stdin is not None
    await process.stdin.aclose()  # ends the child
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_the_end_of_a_block_in_a_child_does_nothing(published: Published, nursery: trio.Nursery) -> None:
    script = """
with forward_in_thread(string) as address:
    pid = os.fork()
if pid == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    process = await published.start(nursery, script)
    assert await process.wait() == 0
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_worker_process_delivers_what_it_has_sent(published: Published, nursery: trio.Nursery) -> None:
    """A forked process of `multiprocessing` runs no ordinary exit functions."""
    script = f"""
import multiprocessing
open_socket(string).close()

def work():
    global sock
    sock = open_socket(string)
    sock.sendall(bytes({SIZE}))

worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
sys.exit(worker.exitcode)
"""
    process = await published.start(nursery, script)
    await published.accept()
    assert len(await receive_all(await published.accept())) == SIZE
    assert await process.wait() == 0
    nursery.cancel_scope.cancel()


async def test_gevent_is_told_to_use_a_forward(published: Published, nursery: trio.Nursery) -> None:
    """Otherwise, the program would hang."""
    pytest.importorskip("gevent")
    script = """
import gevent.monkey
gevent.monkey.patch_all()
from hybridrelay import ConfigurationError

for call in (lambda: open_socket(string), lambda: forward_in_thread(string).__enter__()):
    try:
        call()
    except ConfigurationError as exc:
        assert "hybridrelay forward" in exc.remedy
    else:
        sys.exit("no error")
"""
    process = await published.start(nursery, script)
    assert await process.wait() == 0
    nursery.cancel_scope.cancel()


async def test_nothing_can_be_opened_after_the_exit_has_begun(published: Published, nursery: trio.Nursery) -> None:
    script = """
import atexit
from hybridrelay import HybridRelayError

def late():
    try:
        open_socket(string)
    except HybridRelayError as exc:
        print(exc.remedy, file=sys.stderr)
        os._exit(7)

open_socket(string).close()
import hybridrelay.client.embedding.background as background
atexit.unregister(background._exit)
atexit.register(late)
atexit.register(background._exit)
"""
    process = await published.start(nursery, script)
    assert await process.wait() == 7
    nursery.cancel_scope.cancel()
