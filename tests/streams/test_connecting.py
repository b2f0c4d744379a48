"""Attempts that are given up are reset, even if the kernel has connected them; the one that is used ends normally."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest
import trio

from hybridrelay.connector.targets import open_target
from hybridrelay.security import HostPort
from hybridrelay.streams import connecting
from hybridrelay.streams.connecting import open_tcp

from ..deployments import free_port
from ..resolving import FixedResolver


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """Listens on all loopback addresses; the kernel accepts by itself."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(60)
        yield server


def how_it_ended(server: socket.socket) -> str:
    accepted, _ = server.accept()
    with accepted:
        accepted.settimeout(60)
        try:
            return "clean" if accepted.recv(1) == b"" else "bytes"
        except ConnectionResetError:
            return "reset"


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("127.0.0.1", "127.0.0.2")], ids=["one", "race"])
@pytest.mark.parametrize("dial", ["open_tcp", "open_target"])
async def test_a_cancelled_attempt_is_reset(target: socket.socket, addresses: tuple[str, ...], dial: str) -> None:
    """It is cancelled after the kernel has connected, and before the task that waits for that has run."""
    port = target.getsockname()[1]
    trio.socket.set_custom_hostname_resolver(FixedResolver(*addresses))

    async def cancel_once_connected(scope: trio.CancelScope) -> None:
        while not select.select([target], [], [], 0)[0]:
            await trio.lowlevel.checkpoint()
        scope.cancel()

    cancelled = 0
    for _ in range(40):  # which of the two tasks runs first is a matter of luck
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_once_connected, scope)
                if dial == "open_tcp":
                    stream = await open_tcp("db.example", port)
                else:
                    stream = await open_target(HostPort("db.example", port))
        if scope.cancelled_caught:
            cancelled += 1
            assert how_it_ended(target) == "reset"
        else:
            await stream.aclose()
            how_it_ended(target)
    assert cancelled


@pytest.mark.parametrize("in_parallel", [False, True])
async def test_the_losers_of_a_race_are_reset(
    target: socket.socket, monkeypatch: pytest.MonkeyPatch, in_parallel: bool
) -> None:
    monkeypatch.setattr(connecting, "STAGGER_SECONDS", 0)
    trio.socket.set_custom_hostname_resolver(FixedResolver(*(f"127.0.0.{number}" for number in range(1, 6))))
    losers = 0
    for _ in range(40):  # how many have begun when the first one is connected is a matter of luck
        stream = await open_tcp("db.example", target.getsockname()[1], in_parallel=in_parallel)
        winner = stream.socket.getsockname()
        while select.select([target], [], [], 0)[0]:
            connection, address = target.accept()
            with connection:
                if address != winner:
                    losers += 1
                    connection.settimeout(60)
                    with pytest.raises(ConnectionResetError):
                        connection.recv(1)
        await stream.aclose()
    assert losers


@pytest.mark.parametrize(("keep_reset", "ending"), [(False, "clean"), (True, "reset")])
@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("127.0.0.1", "127.0.0.2")], ids=["one", "race"])
async def test_the_one_that_is_used_ends_as_its_owner_decides(
    target: socket.socket, addresses: tuple[str, ...], keep_reset: bool, ending: str
) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(*addresses))
    stream = await open_tcp("db.example", target.getsockname()[1], keep_reset=keep_reset)
    await stream.aclose()
    assert how_it_ended(target) == ending


async def test_the_failure_at_each_of_several_addresses_is_reported() -> None:
    refusing = free_port()
    trio.socket.set_custom_hostname_resolver(FixedResolver("127.0.0.1", "127.0.0.2"))
    with pytest.raises(OSError, match="all attempts") as caught:
        await open_tcp("db.example", refusing)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [type(error) for error in caught.value.__cause__.exceptions] == [ConnectionRefusedError] * 2


def test_a_second_family_comes_second() -> None:
    six = [(socket.AF_INET6, 1, 6, "", ("::1", 1)), (socket.AF_INET6, 1, 6, "", ("::2", 1))]
    four = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 1)), (socket.AF_INET, 1, 6, "", ("127.0.0.2", 1))]
    assert connecting._interleaved([*six, *four]) == [six[0], four[0], six[1], four[1]]
    assert connecting._interleaved(four) == four


@pytest.mark.parametrize("host", ["", "a" * 64 + ".example", "a..b", "\ud800"])
async def test_what_is_not_a_host_name_is_not_found(host: str) -> None:
    with pytest.raises(socket.gaierror):
        await open_tcp(host, 1)
