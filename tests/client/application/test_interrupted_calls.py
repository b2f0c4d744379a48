"""Signals interrupt an application's calls of connect(2) while these are redirected, and it notices nothing.

The application is a process with the filter. It is signalled whenever a certain step of redirecting its call begins,
and the step continues when the signal has had its effect on the call; or a timer signals it at any time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hybridrelay.client.application import linux
from hybridrelay.client.application.addresses import Address
from hybridrelay.client.application.interception import Redirected, redirect_connections
from hybridrelay.events import Event, EventStream

from ...applications import require_network
from ...waiting import patience, wait_until

if sys.platform != "linux":
    pytest.skip("'run' needs Linux", allow_module_level=True)

PUBLISHED = ("10.99.0.1", 7001)
#: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19), and a flag that no kernel knows, so that none is used.
FLAGS = {"with the flag": 1 << 5, "without the flag": 1 << 30}
#: How many sockets the application connects at least, and how many signals of its timer it gets at least.
SOCKETS, SIGNALS = 4, 30
#: Connects each socket, exchanges data, and calls connect(2) twice more. Prints what the calls have returned.
APPLICATION = f"""
import errno, json, os, platform, select, signal, socket, sys
from hybridrelay.client.application import linux
from hybridrelay.client.application.seccomp import filter_program

channel, flag, mode, handler, interval = sys.argv[1:]
count = 0

def handle(*_):
    global count
    count += 1

signal.signal(signal.SIGUSR1, handle)
signal.signal(signal.SIGALRM, handle)
for number in (signal.SIGUSR1, signal.SIGALRM):
    signal.siginterrupt(number, handler == "interrupts")
linux._SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = int(flag)
linux.forbid_new_privileges()
with socket.socket(fileno=int(channel)) as sending:
    socket.send_fds(sending, [b"x"], [linux.notify_listener(filter_program(platform.machine()))])
signal.setitimer(signal.ITIMER_REAL, float(interval), float(interval))
results = []
while len(results) < {SOCKETS} or (count < {SIGNALS} and float(interval)):
    with socket.socket() as sock:
        sock.setblocking(mode == "blocking")
        calls = [errno.EINTR]
        while calls[-1] == errno.EINTR:
            calls = [sock.connect_ex({PUBLISHED!r})]
        is_blocking = os.get_blocking(sock.fileno())
        select.select([], [sock], [])
        failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        sock.setblocking(True)
        sock.sendall(b"hello")
        echo = sock.recv(5, socket.MSG_WAITALL).decode()
        calls += [sock.connect_ex({PUBLISHED!r}) for _ in range(2)]
        results.append([[errno.errorcode.get(one) for one in calls], is_blocking, failure, echo])
signal.setitimer(signal.ITIMER_REAL, 0)
print(json.dumps([results, count]))
"""
#: What the application prints for each socket, as it does without redirection.
EXPECTED: dict[str, list[Any]] = {
    "blocking": [[None, "EISCONN", "EISCONN"], True, 0, "hello"],
    "non-blocking": [["EINPROGRESS", None, "EISCONN"], False, 0, "hello"],
}


@attrs.define
class Scene:
    """Redirects the connections of an application, which is run once."""

    listener: trio.SocketListener
    flag: int
    redirected: Redirected = attrs.field(init=False)
    #: Both addresses of each connection that was admitted.
    admitted: list[tuple[Address, Address]] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    #: How often each step was reached.
    steps: Counter[str] = attrs.field(factory=Counter)
    _pid: int = 0
    _descriptor: int = -1
    _identifier: int = 0

    def __attrs_post_init__(self) -> None:
        self.redirected = Redirected({PUBLISHED: self.listener.socket.getsockname()}, None)

    def interrupt(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        """Signal the application in three of four times that a function is called."""
        function: Callable[..., Any] = getattr(linux, step)

        def signal_and_call(*arguments: Any) -> Any:
            self.steps[step] += 1
            if self.steps[step] % 4:
                os.kill(self._pid, signal.SIGUSR1)
                wait_until(self._has_effect, seconds=30, what="the signal interrupts the call, or waits for its end")
            return function(*arguments)

        monkeypatch.setattr(linux, step, signal_and_call)

    def _has_effect(self) -> bool:
        if not linux.notification_is_valid(self._descriptor, self._identifier):
            return True
        # Only a deadly signal wakes the application now, which is a state that is shown like this one.
        return Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"

    async def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[list[Any], int]:
        """Run the application, and return its results, and how many signals it has handled."""
        receive = linux.receive_notification

        def note_and_receive(descriptor: int) -> bytes:
            notification = receive(descriptor)
            self.steps["received"] += 1
            (self._identifier,) = struct.unpack_from("=Q", notification)
            return notification

        monkeypatch.setattr(linux, "receive_notification", note_and_receive)
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", APPLICATION, str(theirs.fileno()), str(self.flag), *arguments]
        with (
            ours,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=[theirs.fileno()]
            ) as process,
        ):
            try:
                theirs.close()
                self._pid = process.pid
                _, descriptors, _, _ = await trio.to_thread.run_sync(partial(socket.recv_fds, ours, 1, 1))
                (self._descriptor,) = descriptors
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(trio.serve_listeners, self._serve, [self.listener])
                        await redirect_connections(
                            self._descriptor, self.redirected, events=EventStream(self.events.append)
                        )
                        nursery.cancel_scope.cancel()
                finally:
                    os.close(self._descriptor)
                finish = partial(process.communicate, timeout=patience(30))
                out, err = await trio.to_thread.run_sync(finish)
            finally:
                process.kill()
        assert process.returncode == 0, err
        results, signals = json.loads(out)
        return results, signals

    async def _serve(self, stream: trio.SocketStream) -> None:
        ends = stream.socket.getpeername(), stream.socket.getsockname()
        assert self.redirected.admits(*ends)
        self.admitted.append(ends)
        async for data in stream:
            await stream.send_all(data)

    def check(self, results: list[Any], mode: str) -> None:
        assert results == [EXPECTED[mode]] * len(results)
        assert len(self.admitted) == len(results)
        # Nothing is left that would admit a connection of somebody who has the same address later.
        assert not any(self.redirected.admits(*ends) for ends in self.admitted)
        assert self.events == []


@pytest.fixture(params=FLAGS)
async def scene(request: pytest.FixtureRequest) -> Scene:
    require_network("intercept")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return Scene(listener, FLAGS[request.param])


@pytest.mark.parametrize("mode", EXPECTED)
@pytest.mark.parametrize(
    ("step", "handler"),
    [
        ("take_descriptor", "restarts"),
        ("connect_raw", "restarts"),
        ("send_response", "restarts"),
        ("send_response", "interrupts"),
    ],
)
async def test_a_call_is_interrupted_at_each_step(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, step: str, handler: str, mode: str
) -> None:
    scene.interrupt(monkeypatch, step)
    results, signals = await scene.run(monkeypatch, mode, handler, "0")
    assert signals > 0
    if handler == "interrupts":
        # What the further calls return depends on which ones were interrupted, as it does without redirection.
        for calls, *others in results:
            assert calls[0] == EXPECTED[mode][0][0]
            assert others == EXPECTED[mode][1:]
        return
    scene.check(results, mode)
    # With the flag, a call that was received is not interrupted.
    is_made_once = scene.flag == FLAGS["with the flag"] and _kernel() >= (5, 19)
    assert (scene.steps["received"] == 3 * SOCKETS) is is_made_once


@pytest.mark.parametrize("mode", EXPECTED)
async def test_a_timer_interrupts_calls(monkeypatch: pytest.MonkeyPatch, scene: Scene, mode: str) -> None:
    results, signals = await scene.run(monkeypatch, mode, "restarts", "0.003")
    scene.check(results, mode)
    assert signals >= SIGNALS


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)
