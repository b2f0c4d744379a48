"""Configures the loopback interface of a new network namespace, over netlink (rtnetlink(7))."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable

__all__ = ["bring_up_loopback"]

# linux/sockios.h, linux/if.h
_SIOCSIFFLAGS = 0x8914
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
# linux/netlink.h, linux/rtnetlink.h
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_NLMSG_ERROR = 2
_RTM_NEWADDR, _RTM_NEWROUTE = 20, 24
_RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL = 255, 3, 254, 2
_RTA_OIF = 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_HEADER = struct.Struct("=IHHII")
_ANSWER_BYTES = 64 * 1024


def bring_up_loopback(addresses: Iterable[str]) -> None:
    """Bring up the loopback interface of this network namespace, and give it all IPv4 addresses.

    After that, every IPv4 address belongs to the namespace (this is called AnyIP): a socket can listen at any of
    them, and a connection to one at which nothing listens is refused at once.

    Args:
        addresses: IPv6 addresses that it gets in addition; IPv4 addresses are ignored.

    Raises:
        OSError: the kernel refuses it. EPERM: this process may not configure the namespace. `filename` names the
            step.
    """
    try:
        _bring_up(addresses)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, exc.filename or "bring up the loopback interface") from exc


def _bring_up(addresses: Iterable[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING))
    index = socket.if_nametoindex("lo")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        netlink.bind((0, 0))
        # struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
        route = struct.pack(
            "=8BI", socket.AF_INET, 0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, 0
        )
        _request(netlink, _RTM_NEWROUTE, route + struct.pack("=HHI", 8, _RTA_OIF, index))
        for address in addresses:
            parsed = ipaddress.ip_address(address)
            if parsed.version == 6 and not parsed.is_loopback:
                # struct ifaddrmsg: family, length of the prefix, flags, scope, index.
                message = struct.pack("=BBBBI", socket.AF_INET6, 128, _IFA_F_NODAD, 0, index)
                for kind in (_IFA_LOCAL, _IFA_ADDRESS):
                    message += struct.pack("=HH", 4 + len(parsed.packed), kind) + parsed.packed
                _request(netlink, _RTM_NEWADDR, message)


def _request(netlink: socket.socket, kind: int, body: bytes) -> None:
    """Send a request, and wait for its answer, which the kernel has written when `send` returns."""
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
    answer = netlink.recv(_ANSWER_BYTES)
    _, answer_kind, *_ = _HEADER.unpack_from(answer)
    if answer_kind != _NLMSG_ERROR:
        raise OSError(71, "unexpected answer of the kernel", "netlink")  # EPROTO
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if number:
        raise OSError(-number, os.strerror(-number), "netlink")
