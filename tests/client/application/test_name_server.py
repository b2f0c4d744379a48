"""The name server of an application, with real sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
import trio

from hybridrelay.client.application.addresses import Address
from hybridrelay.client.application.name_server import serve_names

NAMES = {"sql01.corp.example": "127.64.1.1"}
NAME_ERROR = 3


def question(name: str, identifier: int = 7) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        yield found


async def ask(server: socket.socket, data: bytes) -> bytes:
    with trio.fail_after(30), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        await asking.connect(server.getsockname())
        await asking.send(data)
        return await asking.recv(1000)


async def test_published_names_have_their_addresses(sock: socket.socket, nursery: trio.Nursery) -> None:
    nursery.start_soon(serve_names, sock, NAMES, None)
    answer = await ask(sock, question("SQL01.corp.example"))
    assert answer.endswith(socket.inet_aton("127.64.1.1"))
    nursery.cancel_scope.cancel()


async def test_other_names_do_not_exist(sock: socket.socket, nursery: trio.Nursery) -> None:
    nursery.start_soon(serve_names, sock, NAMES, None)
    answer = await ask(sock, question("other.example"))
    assert answer[3] & 0xF == NAME_ERROR
    nursery.cancel_scope.cancel()


async def test_what_is_not_a_question_is_ignored(sock: socket.socket, nursery: trio.Nursery) -> None:
    nursery.start_soon(serve_names, sock, NAMES, None)
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"\0", bytes(12), question("a")[:-1], b"\xff" * 512, bytes(9000)):
            await stranger.sendto(data, sock.getsockname())
    assert (await ask(sock, question("sql01.corp.example")))[3] & 0xF == 0
    nursery.cancel_scope.cancel()


async def test_other_questions_go_to_the_server_that_was_wanted(sock: socket.socket, nursery: trio.Nursery) -> None:
    """The answer is passed on as it is, and answers to other questions are not."""
    wanted: dict[Address, Address] = {}

    async def serve(server: trio.socket.SocketType) -> None:
        while True:
            data, peer = await server.recvfrom(1000)
            await server.sendto(b"xx" + data[2:], peer)
            await server.sendto(data[:2] + b"the answer", peer)

    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        nursery.start_soon(serve, server)
        nursery.start_soon(serve_names, sock, NAMES, wanted.get)
        with trio.fail_after(30), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            await asking.connect(sock.getsockname())
            wanted[asking.getsockname()] = server.getsockname()
            await asking.send(question("other.example"))
            assert await asking.recv(1000) == b"\0\7the answer"
            await asking.send(question("sql01.corp.example"))
            assert (await asking.recv(1000)).endswith(socket.inet_aton("127.64.1.1"))
        nursery.cancel_scope.cancel()


async def test_strangers_get_no_answer(sock: socket.socket, nursery: trio.Nursery) -> None:
    """Where sockets are redirected, one that was not is none of the application's."""
    known: dict[Address, Address] = {}
    nursery.start_soon(serve_names, sock, NAMES, known.get)
    with trio.fail_after(30), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        await asking.connect(sock.getsockname())
        await asking.send(question("sql01.corp.example", 1))
        await asking.send(question("other.example", 2))
        await trio.testing.wait_all_tasks_blocked()
        known[asking.getsockname()] = ("127.0.0.1", 9)
        await asking.send(question("sql01.corp.example", 3))
        assert (await asking.recv(1000))[:2] == b"\0\3"
    nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer_delays_nobody(sock: socket.socket, nursery: trio.Nursery) -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        nursery.start_soon(serve_names, sock, NAMES, lambda _: silent.getsockname())
        with trio.fail_after(30), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            await asking.connect(sock.getsockname())
            for number in range(300):  # more than are asked at the same time
                await asking.send(question("other.example", number))
                await trio.lowlevel.checkpoint()
            await asking.send(question("sql01.corp.example", 999))
            assert (await asking.recv(1000))[:2] == struct.pack("!H", 999)
    nursery.cancel_scope.cancel()


async def test_questions_of_an_application_do_not_take_the_last_descriptors(
    sock: socket.socket, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridrelay.client.application.name_server.is_reserved", lambda _descriptor: True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        nursery.start_soon(serve_names, sock, NAMES, lambda _: server.getsockname())
        with trio.fail_after(30), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            await asking.connect(sock.getsockname())
            await asking.send(question("other.example", 1))
            await asking.send(question("sql01.corp.example", 2))
            assert (await asking.recv(1000))[:2] == b"\0\2"
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BlockingIOError):
                server.recv(1000)
    nursery.cancel_scope.cancel()
