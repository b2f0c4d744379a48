"""The filter, which is executed here as the kernel does, and the messages of notifications."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.application.seccomp import (
    SocketAddress,
    UnsupportedMachine,
    continue_response,
    error_response,
    filter_program,
    pack_address,
    parse_address_untrusted,
    parse_notification,
    result_response,
)

X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
NOTIFY, ALLOW = 0x7FC00000, 0x7FFF0000


def execute(program: bytes, *, number: int, architecture: int) -> int:
    """Execute a filter: the three kinds of instructions that ours have."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *[0] * 6)
    instructions = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize(("machine", "architecture", "connect"), [("x86_64", X86_64, 42), ("aarch64", AARCH64, 203)])
def test_only_connect_is_reported(machine: str, architecture: int, connect: int) -> None:
    program = filter_program(machine)
    for number in range(500):
        expected = NOTIFY if number == connect else ALLOW
        assert execute(program, number=number, architecture=architecture) == expected
    for other in {X86_64, AARCH64, I386} - {architecture}:
        assert execute(program, number=connect, architecture=other) == ALLOW
    assert execute(program, number=connect | 0x40000000, architecture=architecture) == ALLOW  # x32


def test_other_machines_have_no_filter() -> None:
    with pytest.raises(UnsupportedMachine, match="riscv64"):
        filter_program("riscv64")


def test_a_notification_is_read() -> None:
    """The kernel looks at the lower halves of what is of type int."""
    data = struct.pack(
        "=QIIiIQ6Q", 7, 1234, 0, 42, X86_64, 0xABC, 0xFFFFFFFF00000003, 0x7F0012345678, 1 << 32 | 16, 0, 0, 0
    )
    assert len(data) == 80
    found = parse_notification(data)
    assert (found.identifier, found.thread, found.descriptor, found.pointer, found.length) == (
        7, 1234, 3, 0x7F0012345678, 16
    )  # fmt: skip


def test_responses_have_the_bytes_that_the_kernel_expects() -> None:
    assert continue_response(7) == struct.pack("=QqiI", 7, 0, 0, 1)
    assert result_response(7, 0) == struct.pack("=QqiI", 7, 0, 0, 0)
    assert error_response(7, 115) == struct.pack("=QqiI", 7, 0, -115, 0)


@pytest.mark.parametrize(
    ("host", "is_ipv6", "shown"),
    [("10.1.2.3", False, "10.1.2.3"), ("10.1.2.3", True, "10.1.2.3"), ("fd00::5", True, "fd00::5")],
)
def test_addresses_are_written_and_read(host: str, is_ipv6: bool, shown: str) -> None:
    data = pack_address(host, 1433, is_ipv6=is_ipv6)
    assert len(data) == (28 if is_ipv6 else 16)
    assert parse_address_untrusted(data) == SocketAddress(shown, 1433, is_ipv6=is_ipv6)
    assert parse_address_untrusted(data[:-1]) is None


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"/run/nscd/socket\0rest", "/run/nscd/socket"),
        (b"/run/x", "/run/x"),
        (b"\0abstract", "\0abstract"),
        (b"", ""),
    ],
)
def test_paths_of_unix_sockets(data: bytes, path: str) -> None:
    assert parse_address_untrusted(struct.pack("=H", 1) + data) == SocketAddress(path=path)


@given(st.binary(max_size=128))
def test_any_bytes_are_an_address_or_none(data: bytes) -> None:
    found = parse_address_untrusted(data)
    assert found is None or 0 <= found.port <= 65535
