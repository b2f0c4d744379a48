"""The systems with which hybridrelay is compared. A test needs the system's programs, and is skipped without them."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from benchmarks import wire
from benchmarks.ports import HOST
from benchmarks.stage import Stage
from benchmarks.systems import PEERS, SYSTEMS, Deployment, System

_MARKER = b"benchmark in plaintext! " * 8
_STREAMS = 40


@contextlib.contextmanager
def deployed(name: str, directory: Path) -> Iterator[Deployment]:
    system = usable(name)
    with Stage(directory) as stage:
        yield stage.deployment(system)


def usable(name: str) -> System:
    system = SYSTEMS[name]
    if (reason := system.missing()) is not None:
        pytest.skip(f"{name}: {reason}; see 'How to get the other systems' in benchmarks/README.md")
    return system


@pytest.mark.parametrize("name", ["haproxy", *PEERS])
def test_a_system_carries_streams_also_after_its_client_was_started_again(name: str, tmp_path: Path) -> None:
    with deployed(name, tmp_path) as deployment:
        assert deployment.answers()
        if SYSTEMS[name].has_client:
            deployment.restart_client()
            deployment.wait_until_serving()
        assert not deployment.ended()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("name", ["haproxy", *PEERS])
def test_a_stream_needs_no_more_descriptors_than_the_system_says(name: str, tmp_path: Path) -> None:
    """The case of idle streams relies on it."""
    with deployed(name, tmp_path) as deployment, contextlib.ExitStack() as streams:
        before = descriptors(deployment)
        for _ in range(_STREAMS):
            stream = streams.enter_context(wire.connect((HOST, deployment.entry)))
            stream.sendall(wire.HELLO)
            wire.receive_exactly(stream, 1)
        added = descriptors(deployment)
        added.subtract(before)
    assert round(max(added.values()) / _STREAMS) == SYSTEMS[name].descriptors_per_stream


def descriptors(deployment: Deployment) -> Counter[int]:
    pids = (pid for pids in deployment.pids().values() for pid in pids)
    return Counter({pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids})


@pytest.mark.parametrize("name", ["haproxy", *PEERS])
async def test_what_passes_between_client_and_relay_is_encrypted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """haproxy shows that plaintext is recognized. Applications connect to rathole's server in plaintext."""
    usable(name)
    recorded = await record(monkeypatch, lambda: exchange(name, tmp_path))
    assert recorded
    assert (_MARKER in recorded) == (name in {"haproxy", "rathole"})


def exchange(name: str, directory: Path) -> None:
    """Send the marker to the target, and receive its answer."""
    with deployed(name, directory) as deployment, wire.connect((HOST, deployment.entry)) as stream:
        stream.sendall(wire.header(wire.Mode.ANSWER, len(_MARKER)) + _MARKER)
        wire.receive_exactly(stream, len(_MARKER))


async def record(monkeypatch: pytest.MonkeyPatch, use: Callable[[], None]) -> bytes:
    """Return the bytes that crossed the line between client and relay, in both directions, while `use` ran.

    `use` runs in one thread to its end, because the processes that a thread has started end with it.
    """
    recorded = bytearray()

    async with trio.open_nursery() as nursery:

        async def lead_to(port: int) -> int:
            async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for data in source:
                        recorded.extend(data)
                        await sink.send_all(data)
                    await sink.send_eof()

            async def handle(near: trio.SocketStream) -> None:
                with contextlib.suppress(OSError):  # the server does not listen yet: the connection ends
                    far = await trio.open_tcp_stream(HOST, port)
                    async with far, trio.open_nursery() as pair:
                        pair.start_soon(copy, near, far)
                        pair.start_soon(copy, far, near)

            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            nursery.start_soon(trio.serve_listeners, handle, [listener])
            number: int = listener.socket.getsockname()[1]
            return number

        monkeypatch.setattr(Deployment, "across", lambda _, port: trio.from_thread.run(lead_to, port))
        await trio.to_thread.run_sync(use)
        nursery.cancel_scope.cancel()
    return bytes(recorded)


def test_the_cipher_of_ssh_is_the_one_that_was_chosen(tmp_path: Path) -> None:
    with deployed("ssh-aes128", tmp_path) as deployment:
        ssh = [*deployment.programs["client"], *deployment.programs["connector"]]
        assert len(ssh) == 2
        for program in ssh:
            for direction in ("server->client", "client->server"):
                program.wait_for_line(rf"kex: {direction} cipher: aes128-gcm@openssh\.com ")
