"""The system call filter, and the messages of seccomp user notification (seccomp_unotify(2)). Pure.

The filter is a program of classic BPF, which sees the number of the system call and its arguments, but not what they
point to. It reports every connect(2) of the architecture for which it is made. All other calls, and those of other
architectures (32-bit programs on x86_64), are executed as always.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import attrs

from ..._value import Value

__all__ = [
    "ADDRESS_BYTES",
    "Notification",
    "SocketAddress",
    "UnsupportedMachine",
    "continue_response",
    "error_response",
    "filter_program",
    "pack_address",
    "parse_address_untrusted",
    "parse_notification",
    "result_response",
]

#: The architecture in linux/audit.h, and the number of connect(2).
_MACHINES: Final = {"x86_64": (0xC000_003E, 42), "aarch64": (0xC000_00B7, 203)}
# linux/bpf_common.h, linux/seccomp.h
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NOTIFY: Final = 0x7FC0_0000  # SECCOMP_RET_USER_NOTIF
_ALLOW: Final = 0x7FFF_0000  # SECCOMP_RET_ALLOW
_CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
#: Offsets in struct seccomp_data.
_NUMBER, _ARCHITECTURE = 0, 4
#: struct seccomp_notif: id, pid, flags; nr, arch, instruction pointer, and six arguments.
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
#: struct seccomp_notif_resp: id, val, error, flags.
_RESPONSE: Final = struct.Struct("=QqiI")

_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
#: struct sockaddr_in, and sockaddr_in6.
_INET_BYTES, _INET6_BYTES = 16, 28
#: The longest address that a program may pass to connect(2): struct sockaddr_storage.
ADDRESS_BYTES: Final = 128


class UnsupportedMachine(Exception):
    """There is no filter for this architecture."""


def filter_program(machine: str) -> bytes:
    """Return the filter, as struct sock_filter[].

    Args:
        machine: the architecture, as `platform.machine` says.

    Raises:
        UnsupportedMachine: it is neither x86_64 nor aarch64.
    """
    if machine not in _MACHINES:
        raise UnsupportedMachine(f"there is no filter of system calls for {machine}")
    architecture, connect = _MACHINES[machine]
    return b"".join(
        (
            _instruction(_LOAD_WORD, 0, 0, _ARCHITECTURE),
            _instruction(_JUMP_IF_EQUAL, 0, 3, architecture),
            _instruction(_LOAD_WORD, 0, 0, _NUMBER),
            _instruction(_JUMP_IF_EQUAL, 0, 1, connect),
            _instruction(_RETURN, 0, 0, _NOTIFY),
            _instruction(_RETURN, 0, 0, _ALLOW),
        )
    )


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


@attrs.frozen
class Notification(Value):
    """A call of connect(2) that waits for an answer."""

    #: Identifies the call.
    identifier: int
    #: The thread that has made it.
    thread: int
    #: The number of the socket's descriptor in its process.
    descriptor: int
    #: Where the address is in the memory of its process.
    pointer: int
    #: The length of the address, as the program says.
    length: int


def parse_notification(data: bytes) -> Notification:
    """Parse a struct seccomp_notif, which the kernel has written."""
    fields = _NOTIFICATION.unpack(data[: _NOTIFICATION.size])
    identifier, thread, first, second, third = fields[0], fields[1], fields[6], fields[7], fields[8]
    # The kernel uses only the lower half of the descriptor and of the length, which are of type int.
    return Notification(identifier, thread, first & 0xFFFF_FFFF, second, third & 0xFFFF_FFFF)


def continue_response(identifier: int) -> bytes:
    """Return the answer that lets the call be executed as the program has made it."""
    return _RESPONSE.pack(identifier, 0, 0, _CONTINUE)


def result_response(identifier: int, value: int) -> bytes:
    """Return the answer that lets the call return `value`."""
    return _RESPONSE.pack(identifier, value, 0, 0)


def error_response(identifier: int, number: int) -> bytes:
    """Return the answer that lets the call fail with an error number (positive)."""
    return _RESPONSE.pack(identifier, 0, -number, 0)


@attrs.frozen
class SocketAddress(Value):
    """An address that a program wants to connect to."""

    #: The IP address; for an IPv4-mapped IPv6 address, it is the IPv4 address. Empty for a Unix socket.
    host: str = ""
    port: int = 0
    #: Whether the socket's own addresses are IPv6 addresses.
    is_ipv6: bool = False
    #: The path of a Unix socket; an abstract one begins with a zero character.
    path: str = ""


def parse_address_untrusted(data: bytes) -> SocketAddress | None:
    """Parse a struct sockaddr that a program has written. Returns None if it is of another kind, or too short."""
    if len(data) < 2:
        return None
    (family,) = struct.unpack_from("=H", data)
    if family == _AF_INET and len(data) >= _INET_BYTES:
        (port,) = struct.unpack_from("!H", data, 2)
        return SocketAddress(str(ipaddress.IPv4Address(data[4:8])), port)
    if family == _AF_INET6 and len(data) >= _INET6_BYTES:
        (port,) = struct.unpack_from("!H", data, 2)
        address = ipaddress.IPv6Address(data[8:24])
        return SocketAddress(str(address.ipv4_mapped or address), port, is_ipv6=True)
    if family == _AF_UNIX:
        path = data[2:]
        end = path.find(b"\0", 1)
        return SocketAddress(path=(path if end < 0 else path[:end]).decode("utf-8", "surrogateescape"))
    return None


def pack_address(host: str, port: int, *, is_ipv6: bool) -> bytes:
    """Return a struct sockaddr_in, or, for a socket whose addresses are IPv6 addresses, a struct sockaddr_in6."""
    address = ipaddress.ip_address(host)
    if not is_ipv6:
        return struct.pack("=H", _AF_INET) + struct.pack("!H4s8x", port, address.packed)
    packed = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    return struct.pack("=H", _AF_INET6) + struct.pack("!HI16sI", port, 0, packed, 0)
