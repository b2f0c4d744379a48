"""SOCKS5 (RFC 1928), with user name and password if they are given (RFC 1929).

The proxy resolves names, for ``socks5`` and for ``socks5h``: in a network with such a proxy, the local DNS often does
not know the relay, and a query to it would reveal the relay's name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

import trio

from ...failure import FailureKind
from ...security.names import bracketed
from ...streams import receive_exactly
from ..dialing import ProxyError
from .failures import proxy_error
from .settings import Proxy

_VERSION = 5
_CONNECT = 1
_NO_AUTHENTICATION, _USERNAME_PASSWORD, _NONE_ACCEPTABLE = 0, 2, 0xFF
_IPV4, _NAME, _IPV6 = 1, 3, 4
_ADDRESS_BYTES = {_IPV4: 4, _IPV6: 16}

#: RFC 1928, section 6.
_REPLIES = {
    1: (FailureKind.PROXY_CANNOT_CONNECT, "reports a general failure when it connects to"),
    2: (FailureKind.PROXY_REFUSED, "does not allow connections to"),
    3: (FailureKind.PROXY_CANNOT_CONNECT, "cannot reach the network of"),
    4: (FailureKind.PROXY_CANNOT_CONNECT, "cannot reach, or does not know, the host of"),
    5: (FailureKind.PROXY_CANNOT_CONNECT, "had its connection refused by"),
    6: (FailureKind.PROXY_CANNOT_CONNECT, "got no answer (TTL expired) from"),
    7: (FailureKind.PROXY_REFUSED, "does not support CONNECT, which was requested for"),
    8: (FailureKind.PROXY_CANNOT_CONNECT, "does not support this address type:"),
}


async def open_socks_tunnel(
    connect: Callable[[], Awaitable[trio.abc.Stream]], proxy: Proxy, host: str, port: int
) -> trio.abc.Stream:
    """Request a connection.

    Args:
        connect: opens a connection to the proxy.
        proxy: for messages and credentials.
        host: the destination: a name or an address.
        port: its port.

    Returns:
        The connection. Nothing after the proxy's answer was read.

    Raises:
        ProxyError: the proxy refused, or what answered is not a proxy.
        Exception: any exception of `connect`.

    The caller sets the deadline. On any exception, including cancellation, nothing stays open.
    """
    stream = await connect()
    try:
        await _ask(stream, proxy, host, port)
    except BaseException as exc:
        await trio.aclose_forcefully(stream)
        if isinstance(exc, trio.BrokenResourceError):
            raise proxy_error(FailureKind.PROXY_FAILED, proxy, "closed the connection without an answer") from exc
        raise
    return stream


async def _ask(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    await _authenticate(stream, proxy)
    await stream.send_all(bytes([_VERSION, _CONNECT, 0]) + _address(host) + port.to_bytes(2, "big"))
    version, reply, _, kind = await receive_exactly(stream, 4)
    if version != _VERSION:
        raise _no_socks(proxy)
    if reply:
        failure, happened = _REPLIES.get(reply, (FailureKind.PROXY_FAILED, f"answers {reply} when asked for"))
        raise proxy_error(failure, proxy, f"{happened} {bracketed(host)}:{port}")
    # BND.ADDR, the address from which the proxy connected, is not needed but has to be read.
    if kind == _NAME:
        (size,) = await receive_exactly(stream, 1)
    elif kind in _ADDRESS_BYTES:
        size = _ADDRESS_BYTES[kind]
    else:
        raise _no_socks(proxy)
    await receive_exactly(stream, size + 2)


async def _authenticate(stream: trio.abc.Stream, proxy: Proxy) -> None:
    methods = [_NO_AUTHENTICATION] if proxy.username is None else [_NO_AUTHENTICATION, _USERNAME_PASSWORD]
    await stream.send_all(bytes([_VERSION, len(methods), *methods]))
    version, method = await receive_exactly(stream, 2)
    if version != _VERSION:
        raise _no_socks(proxy)
    if method == _NONE_ACCEPTABLE:
        happened = "requires authentication" if proxy.username is None else "does not accept user names and passwords"
        raise proxy_error(FailureKind.PROXY_AUTHENTICATION, proxy, happened)
    if method not in methods:
        raise _no_socks(proxy)
    if method == _NO_AUTHENTICATION:
        return
    assert proxy.username is not None
    name = proxy.username.encode()
    password = b"" if proxy.password is None else proxy.password.reveal().encode()
    await stream.send_all(bytes([1, len(name)]) + name + bytes([len(password)]) + password)
    _, status = await receive_exactly(stream, 2)
    if status:
        raise proxy_error(
            FailureKind.PROXY_AUTHENTICATION,
            proxy,
            "does not accept the user name and password",
            remedy="correct the proxy's user name and password",
        )


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


def _no_socks(proxy: Proxy) -> ProxyError:
    return proxy_error(FailureKind.PROXY_FAILED, proxy, "does not speak SOCKS5")
