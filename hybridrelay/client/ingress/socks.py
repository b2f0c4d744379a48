"""SOCKS5 for applications (RFC 1928), with user name and password if they are required (RFC 1929). Pure.

1. CONNECT is the only command. Names are not resolved here, so applications have to send them (socks5h).
2. The application offers methods of authentication. If a user is required, it has to offer user name and password
   (RFC 1929). Otherwise the method without authentication is chosen, or, if it is not offered, user name and
   password, which are then not checked: some applications offer only what they are configured for.
3. After a reply that refuses, the connection is closed.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from typing import Final

from ...protocol.reasons import Reason
from .handshake import CheckUser, FrontRefusal, Step, cause_of, wanted_host

__all__ = ["TRANSITIONS", "SocksHandshake", "SocksInput", "SocksState"]

_VERSION: Final = 5
#: The version of the subnegotiation of RFC 1929.
_USER_VERSION: Final = 1
_NO_AUTHENTICATION, _USER_AND_PASSWORD, _NONE_ACCEPTABLE = 0, 2, 0xFF
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_SUCCEEDED, _NOT_ALLOWED, _NO_SUCH_COMMAND, _NO_SUCH_ADDRESS_TYPE = 0, 2, 7, 8
#: Request rejected or failed, in SOCKS4.
_SOCKS4_REJECTED: Final = b"\x00\x5b" + bytes(6)


class SocksState(enum.Enum):
    """What is expected next."""

    METHODS = "methods"
    USER = "user"
    REQUEST = "request"
    OVER = "over"


class SocksInput(enum.Enum):
    """What a complete message is."""

    NO_AUTHENTICATION = "no-authentication"
    USER_AND_PASSWORD = "user-and-password"  # noqa: S105 - the name of a method
    ACCEPTED_USER = "accepted-user"
    REQUEST = "request"


#: Everything else is a refusal, after which nothing is received.
TRANSITIONS: Mapping[tuple[SocksState, SocksInput], SocksState] = {
    (SocksState.METHODS, SocksInput.NO_AUTHENTICATION): SocksState.REQUEST,
    (SocksState.METHODS, SocksInput.USER_AND_PASSWORD): SocksState.USER,
    (SocksState.USER, SocksInput.ACCEPTED_USER): SocksState.REQUEST,
    (SocksState.REQUEST, SocksInput.REQUEST): SocksState.OVER,
}


class SocksHandshake:
    """See `FrontHandshake`.

    Args:
        check_user: checks user name and password; None if no user is required.
    """

    def __init__(self, check_user: CheckUser | None = None) -> None:
        self._check_user = check_user
        self._state = SocksState.METHODS
        #: The beginning of a message. No message is longer than 515 bytes.
        self._buffer = bytearray()

    def receive_untrusted(self, data: bytes) -> Step:
        """See `FrontHandshake.receive_untrusted`."""
        consumed, replies = 0, b""
        while True:
            part = data[consumed : consumed + self._length() - len(self._buffer)]
            self._buffer += part
            consumed += len(part)
            if self._length() > len(self._buffer):  # it may have become known with these bytes
                if consumed < len(data):
                    continue
                return Step(consumed, replies)
            message = bytes(self._buffer)
            self._buffer.clear()
            try:
                step = self._message(message)
            except FrontRefusal as exc:
                raise FrontRefusal(str(exc), replies + exc.reply) from None
            replies += step.reply
            if step.wanted is not None:
                return Step(consumed, replies, step.wanted)

    def opened(self) -> bytes:
        """See `FrontHandshake.opened`."""
        return _reply(_SUCCEEDED)

    def not_published(self) -> bytes:
        """See `FrontHandshake.not_published`."""
        return _reply(_NOT_ALLOWED)

    def failed(self, reason: Reason, text: str) -> bytes:
        """See `FrontHandshake.failed`. SOCKS5 has no place for a text."""
        return _reply(cause_of(reason).socks)

    def _length(self) -> int:
        """Return the length of the expected message, as far as it is known. While the message is not complete, this
        is more than has been received."""
        buffer = self._buffer
        if buffer and buffer[0] != (_USER_VERSION if self._state is SocksState.USER else _VERSION):
            return 1  # refused without waiting for the rest, which may never come
        match self._state:
            case SocksState.METHODS:
                return 2 if len(buffer) < 2 else 2 + buffer[1]
            case SocksState.USER:
                if len(buffer) < 2:
                    return 2
                name_end = 2 + buffer[1]
                return name_end + 1 if len(buffer) <= name_end else name_end + 1 + buffer[name_end]
            case SocksState.REQUEST:
                if len(buffer) < 5:
                    return 5
                sizes = {_IPV4: 4, _NAME: 1 + buffer[4], _IPV6: 16}
                return 4 + sizes[buffer[3]] + 2 if buffer[3] in sizes else 5
        raise AssertionError("the handshake is over")

    def _message(self, message: bytes) -> Step:
        match self._state:
            case SocksState.METHODS:
                return self._methods(message)
            case SocksState.USER:
                return self._user(message)
            case _:
                return self._request(message)

    def _methods(self, message: bytes) -> Step:
        if message[0] != _VERSION:
            raise _other_protocol(message[0])
        offered = message[2:]
        if self._check_user is None and _NO_AUTHENTICATION in offered:
            method, received = _NO_AUTHENTICATION, SocksInput.NO_AUTHENTICATION
        elif _USER_AND_PASSWORD in offered:
            method, received = _USER_AND_PASSWORD, SocksInput.USER_AND_PASSWORD
        else:
            raise FrontRefusal("the client offers no authentication method that is accepted here", b"\x05\xff")
        self._receive(received)
        return Step(0, bytes([_VERSION, method]))

    def _user(self, message: bytes) -> Step:
        if message[0] != _USER_VERSION:
            raise FrontRefusal("the authentication message is malformed", bytes([_USER_VERSION, 1]))
        name_end = 2 + message[1]
        name, password = message[2:name_end], message[name_end + 1 :]
        if self._check_user is not None and not self._check_user(name, password):
            raise FrontRefusal("the user name or password is wrong", bytes([_USER_VERSION, 1]))
        self._receive(SocksInput.ACCEPTED_USER)
        return Step(0, bytes([_USER_VERSION, 0]))

    def _request(self, message: bytes) -> Step:
        if message[0] != _VERSION:
            raise FrontRefusal("the request is malformed", _reply(1))
        if message[1] != _CONNECT:
            raise FrontRefusal("the request is not for a TCP connection (CONNECT)", _reply(_NO_SUCH_COMMAND))
        kind, address, port = message[3], message[4:-2], int.from_bytes(message[-2:], "big")
        if kind in (_IPV4, _IPV6):
            host = str(ipaddress.ip_address(address))
        elif kind == _NAME:
            host = address[1:].decode("latin-1")
        else:
            raise FrontRefusal("the request has an unknown address type", _reply(_NO_SUCH_ADDRESS_TYPE))
        wanted = wanted_host(host, port)
        if wanted is None:
            raise FrontRefusal("the request does not name a valid host and port", _reply(_NOT_ALLOWED))
        self._receive(SocksInput.REQUEST)
        return Step(0, wanted=wanted)

    def _receive(self, received: SocksInput) -> None:
        self._state = TRANSITIONS[self._state, received]


def _other_protocol(first: int) -> FrontRefusal:
    if first == 4:
        return FrontRefusal("the application uses SOCKS4; this port serves SOCKS5 only", _SOCKS4_REJECTED)
    if chr(first).isalpha():
        return FrontRefusal("the application does not use SOCKS5; it may be using HTTP")
    return FrontRefusal("the application does not use SOCKS5")


def _reply(code: int) -> bytes:
    """Return a reply. The address from which the target is reached is not known here, so it is 0.0.0.0:0."""
    return bytes([_VERSION, code, 0, _IPV4]) + bytes(6)
