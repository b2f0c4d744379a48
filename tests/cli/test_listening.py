"""What the commands say when they cannot listen on a port."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hybridrelay._listening import bind_datagrams, explain_listen_error, open_listeners
from hybridrelay.cli.arguments.forward import parse_forward
from hybridrelay.cli.entries import entries_of
from hybridrelay.events import Event, EventStream, ListenAddressSkipped, logged_events

from ..deployments import free_port
from ..resolving import FixedResolver
from .conftest import Created, Run


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "port", "says"),
    [
        (errno.EADDRINUSE, 5432, "find out which program uses it with"),
        (errno.EADDRINUSE, 50_000, "may be an outgoing connection"),
        (errno.EACCES, 80, "ports below 1024 need a privilege"),
        (errno.EADDRNOTAVAIL, 5432, "that an interface of this machine has"),
        (errno.EMFILE, 5432, "LimitNOFILE="),
    ],
)
def test_what_can_be_done(number: int, port: int, says: str) -> None:
    text, remedy = explain_listen_error(_error(number), port, otherwise="or choose another")

    assert text == ("this machine has run out of file descriptors" if number == errno.EMFILE else os.strerror(number))
    assert says in remedy
    assert number == errno.EMFILE or remedy.endswith("or choose another")


#: Reserved for documentation (RFC 5737), so no machine has them.
_ABSENT = ("192.0.2.1", "198.51.100.1")
_HERE = "127.0.0.1"


@pytest.mark.parametrize("addresses", [(_ABSENT[0], _HERE), (_HERE, _ABSENT[0])])
async def test_an_address_that_is_not_there_is_left_out(addresses: tuple[str, ...]) -> None:
    happened: list[Event] = []
    trio.socket.set_custom_hostname_resolver(FixedResolver(*addresses))
    (listener,) = await open_listeners("localhost", 0, events=EventStream(happened.append))
    async with listener:
        assert listener.socket.getsockname()[0] == "127.0.0.1"
    assert happened == [ListenAddressSkipped(address="192.0.2.1", detail=os.strerror(errno.EADDRNOTAVAIL))]


@pytest.mark.parametrize("addresses", [_ABSENT, _ABSENT[:1]])
async def test_an_error_where_no_address_is_there(addresses: tuple[str, ...]) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(*addresses))
    with pytest.raises(OSError) as caught:
        await open_listeners("localhost", 0, events=logged_events())
    assert caught.value.errno == errno.EADDRNOTAVAIL


class SilentResolver(trio.abc.HostnameResolver):
    """A name service that does not answer."""

    async def getaddrinfo(self, *_: Any) -> Any:
        await trio.sleep_forever()

    async def getnameinfo(self, *_: Any) -> Any:
        await trio.sleep_forever()


@pytest.mark.parametrize("listen", [partial(open_listeners, events=logged_events()), bind_datagrams])
async def test_a_name_service_that_does_not_answer_is_an_error(
    autojump_clock: trio.testing.MockClock, listen: Callable[[str, int], Awaitable[object]]
) -> None:
    trio.socket.set_custom_hostname_resolver(SilentResolver())
    with pytest.raises(OSError, match="the name service did not answer within 10 s") as caught:
        await listen("front.example", 0)
    assert trio.current_time() == 10.0
    text, remedy = explain_listen_error(caught.value, 80, otherwise="or choose another")
    assert (text, remedy) == ("the name service did not answer within 10 s", "choose another")


async def test_a_port_that_is_taken_at_one_address_is_an_error() -> None:
    with socket.socket() as other:
        port = free_port()
        other.bind(("127.0.0.2", port))
        other.listen()
        trio.socket.set_custom_hostname_resolver(FixedResolver(_HERE, "127.0.0.2"))
        with pytest.raises(OSError) as caught:
            await open_listeners("localhost", port, events=logged_events())
        assert caught.value.errno == errno.EADDRINUSE
        with socket.socket() as again:  # nothing stays open
            again.bind(("127.0.0.1", port))
            again.listen()


@pytest.mark.parametrize("command", ["forward", "relay"])
def test_a_port_that_is_taken(run: Run, created: Created, tmp_path: Path, command: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        if command == "forward":
            result = run(command, "--connection-string-file", created.application, "--listen", address)
        else:
            ports = f"probe={address},control=0,data=0,http=0,https=0"
            result = run(command, "--state", tmp_path / "another", "--host", "127.0.0.1", "--ports", ports)

    assert (result.code, result.out) == (2, "")
    error, remedy = result.err.splitlines()
    assert f"cannot listen on {address}: {os.strerror(errno.EADDRINUSE)}" in error
    assert remedy.startswith("  try: find out which program uses it with ")


def test_several_addresses_for_one_file_on_the_command_line() -> None:
    args = parse_forward(["--connection-string-file", "a", "--listen", "127.0.0.1:1", "--listen", "[::1]:2"])
    (entry,) = entries_of(args, {})
    assert entry.listen == (("127.0.0.1", 1), ("::1", 2))
