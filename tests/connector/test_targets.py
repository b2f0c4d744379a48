"""Why a target could not be opened: its fault, the name server's, or the connector's own."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest
import trio

from hybridrelay._threads import OutOfThreads
from hybridrelay.connector import targets
from hybridrelay.connector.targets import (
    TargetDenied,
    TargetError,
    check_supported,
    open_datagram_target,
    open_target,
)
from hybridrelay.errors import ConfigurationError
from hybridrelay.policy.decision import ALLOWED, Decision
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, UnixSocket
from hybridrelay.streams import unix_sockets
from hybridrelay.streams.name_lookups import AddressInfo
from hybridrelay.streams.path_threads import THREADS_PER_PATH
from hybridrelay.streams.unix_sockets import listen_unix_socket

from ..waiting import patience

TARGET = HostPort("db.internal", 5432)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _several(*errors: OSError) -> OSError:
    error = OSError("all attempts failed")
    error.__cause__ = ExceptionGroup("attempts", errors)
    return error


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (_error(errno.ECONNREFUSED), Reason.TARGET_REFUSED),
        (_error(errno.ETIMEDOUT), Reason.TARGET_TIMEOUT),
        (_error(errno.EHOSTUNREACH), Reason.TARGET_UNREACHABLE),
        (_error(errno.EADDRNOTAVAIL), Reason.TARGET_UNREACHABLE),
        (_several(_error(errno.ENETUNREACH), _error(errno.ECONNREFUSED)), Reason.TARGET_REFUSED),
        (_several(_error(errno.EADDRNOTAVAIL), _error(errno.ECONNREFUSED)), Reason.TARGET_REFUSED),
        (_error(errno.EMFILE), Reason.OUT_OF_RESOURCES),
        (_error(errno.ENFILE), Reason.OUT_OF_RESOURCES),
        (_error(errno.ENOMEM), Reason.OUT_OF_RESOURCES),
        (_error(errno.ENOBUFS), Reason.OUT_OF_RESOURCES),
        (OutOfThreads(), Reason.OUT_OF_RESOURCES),
        (_several(_error(errno.ECONNREFUSED), _error(errno.EMFILE)), Reason.OUT_OF_RESOURCES),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), Reason.TARGET_NAME_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "later"), Reason.TARGET_NAME_SERVICE_FAILED),
        (socket.gaierror(socket.EAI_FAIL, "failed"), Reason.TARGET_NAME_SERVICE_FAILED),
        (socket.gaierror(socket.EAI_SYSTEM, "system"), Reason.TARGET_NAME_SERVICE_FAILED),
    ],
)
async def test_a_failure_has_a_reason_and_does_not_name_the_target(
    failure: OSError, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: object, **options: object) -> trio.SocketStream:
        raise failure

    monkeypatch.setattr(targets, "open_tcp", fail)
    with pytest.raises(TargetError) as caught:
        await open_target(TARGET)
    assert caught.value.reason is reason
    assert TARGET.host not in str(caught.value)
    assert (caught.value.remedy is not None) == (reason is Reason.OUT_OF_RESOURCES)


@pytest.mark.parametrize(
    ("errors", "reason", "detail"),
    [
        ([errno.EAGAIN], Reason.OUT_OF_RESOURCES, os.strerror(errno.EAGAIN)),
        ([errno.EAGAIN, errno.ENETUNREACH], Reason.OUT_OF_RESOURCES, os.strerror(errno.ENETUNREACH)),
        ([errno.EMFILE], Reason.OUT_OF_RESOURCES, os.strerror(errno.EMFILE)),
        ([errno.EADDRNOTAVAIL], Reason.TARGET_UNREACHABLE, os.strerror(errno.EADDRNOTAVAIL)),
        ([errno.ENETUNREACH, errno.ENETUNREACH], Reason.TARGET_UNREACHABLE, os.strerror(errno.ENETUNREACH)),
    ],
)
async def test_why_a_udp_socket_cannot_be_connected(
    errors: list[int], reason: Reason, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(errors)

    class Sock(socket.socket):
        def connect(self, address: object) -> None:
            raise _error(left.pop(0))

    async def found(*_: object, **__: object) -> list[AddressInfo]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("192.0.2.1", 53)) for _ in errors]

    monkeypatch.setattr(targets, "resolve_host", found)
    monkeypatch.setattr(socket, "socket", Sock)
    with pytest.raises(TargetError) as caught:
        await open_datagram_target(TARGET)
    assert not left
    assert caught.value.reason is reason
    assert (caught.value.remedy is not None) == (reason is Reason.OUT_OF_RESOURCES)
    assert str(caught.value.__cause__).count(detail) == 1, "this is what the audit log says"


@pytest.mark.parametrize(
    ("since", "made", "chosen"),
    [
        ([None], 1, 0),
        ([5.0, 3.0, None], 3, 2),
        ([5.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0, 9.0], 8, 1),
        ([5.0, 7.0, OSError(errno.EAGAIN, "no port is left")], 3, 0),
    ],
)
async def test_a_local_port_that_another_application_has_had_is_avoided(
    since: list[float | OSError | None], made: int, chosen: int
) -> None:
    sockets = []

    def foreign_since(sock: socket.socket) -> float | None:
        sockets.append(sock)
        answer = since[len(sockets) - 1]
        if isinstance(answer, OSError):
            raise answer
        return answer

    with await open_datagram_target(HostPort("127.0.0.1", 9), foreign_since=foreign_since) as got:
        assert len(sockets) == made
        assert got is sockets[chosen]
        assert got.getpeername() == ("127.0.0.1", 9)
        assert all(one.fileno() == -1 for one in sockets if one is not got), "the others are closed"


async def test_a_connection_that_is_dropped_is_reset() -> None:
    """If the connector is killed before both directions have ended, the target sees no end of file."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        stream = await open_target(HostPort("127.0.0.1", listener.socket.getsockname()[1]))
        async with await listener.accept() as accepted:
            stream.socket.close()
            with pytest.raises(trio.BrokenResourceError):
                await accepted.receive_some()


async def test_the_last_descriptors_are_not_for_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "is_reserved", lambda descriptor: True)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        with pytest.raises(TargetError, match="descriptors") as caught:
            await open_target(HostPort("127.0.0.1", listener.socket.getsockname()[1]))
        assert caught.value.reason is Reason.OUT_OF_RESOURCES
        async with await listener.accept() as accepted:
            with pytest.raises(trio.BrokenResourceError):
                await accepted.receive_some()


async def test_the_path_that_was_allowed_is_connected_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("db.sock")
    listener, _ = await listen_unix_socket(tmp_path / "db.sock")
    target, asked = UnixSocket(f"{tmp_path}/link"), []

    def permit(path: str) -> Decision:
        asked.append(path)
        return ALLOWED

    async with listener, await open_target(target, permit=permit) as stream, await listener.accept() as accepted:
        await stream.send_all(b"x")
        assert await accepted.receive_some() == b"x"
    real = os.path.realpath(tmp_path / "db.sock")
    assert asked == [real]
    with pytest.raises(TargetDenied) as caught:
        await open_target(target, permit=lambda _: Decision(Reason.DENIED_BY_POLICY, "a rule"))
    assert caught.value.decision.rule == "a rule"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", Reason.TARGET_REFUSED),
        ("abandoned", Reason.TARGET_REFUSED),
        ("file", Reason.TARGET_UNREACHABLE),
        ("file/x", Reason.TARGET_UNREACHABLE),
    ],
)
async def test_a_unix_socket_on_which_nothing_listens(tmp_path: Path, name: str, reason: Reason) -> None:
    listener, _ = await listen_unix_socket(tmp_path / "abandoned")
    await listener.aclose()
    (tmp_path / "file").touch()
    with pytest.raises(TargetError) as caught:
        await open_target(UnixSocket(f"{tmp_path}/{name}"))
    assert caught.value.reason is reason
    assert str(tmp_path) not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_file_system_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Further attempts are not said to be those of a target that does not answer."""
    answers = threading.Event()

    def find(path: str) -> tuple[str, int | None]:
        answers.wait(patience(20))
        return path, None

    monkeypatch.setattr(unix_sockets, "_find_socket", find)
    said = []
    try:
        for _ in range(THREADS_PER_PATH + 1):
            with pytest.raises(TargetError) as caught:
                await open_target(UnixSocket("/mnt/server/db.sock"))
            assert caught.value.reason is Reason.TARGET_TIMEOUT
            said.append(str(caught.value))
    finally:
        answers.set()
    assert said == [
        "the target did not answer within 10 s",
        "the target did not answer within 10 s",
        "the file system of the target's Unix socket does not answer",
    ]
    assert caught.value.remedy == "check whether a network file system cannot be reached"


def test_a_system_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    assert check_supported(TARGET) is TARGET
    with pytest.raises(ConfigurationError, match=r"unix:/run/db\.sock is a Unix socket, and this system has none"):
        check_supported(UnixSocket("/run/db.sock"))
