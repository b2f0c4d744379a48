"""Connecting to the target, and explaining why that failed."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

import trio

from .._descriptors import is_reserved
from .._shortage import OUT_OF_DESCRIPTORS, Shortage, datagram_shortage_of, socket_shortage_of
from ..errors import ConfigurationError
from ..failure import causes
from ..policy.decision import ALLOWED, Decision
from ..protocol.reasons import Reason
from ..security import HostPort, StreamTarget, Target, UnixSocket
from ..streams.connecting import Spare, open_tcp, resolve_host
from ..streams.name_lookups import AddressInfo, Purpose
from ..streams.path_threads import PathSilent
from ..streams.sockets import abort_stream, reset_on_close, tune_socket
from ..streams.unix_sockets import UnixSocketFile, has_unix_sockets

#: How long resolving and connecting may take (seconds): enough for two lost SYN packets, and less than the connection
#: timeouts of database drivers.
DIAL_SECONDS = 10.0
#: How many UDP sockets are made at most to get a local port that no other application has had lately.
_MAX_DRAWS = 8

_BY_ERRNO = {
    errno.ECONNREFUSED: Reason.TARGET_REFUSED,
    errno.ENOENT: Reason.TARGET_REFUSED,  # a Unix socket on which nothing listens
    errno.ECONNRESET: Reason.TARGET_REFUSED,
    errno.ETIMEDOUT: Reason.TARGET_TIMEOUT,
}
_NAME_NOT_FOUND = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}


class TargetError(Exception):
    """Connecting to the target failed. The text and `reason` are sent to the client; `remedy` is for the
    administrator."""

    def __init__(self, message: str, reason: Reason, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy


class TargetDenied(TargetError):
    """The policy allows none of the addresses to which the target's name resolves, or not the path of the Unix
    socket. `decision` is about the last address, or the path."""

    def __init__(self, decision: Decision) -> None:
        assert decision.reason is not None
        super().__init__(decision.reason.describe, decision.reason)
        self.decision = decision


#: Is told how an attempt to connect to a target has ended: the target, when the attempt began (on Trio's clock), and
#: why it failed (None if it did not).
TargetAttempted: TypeAlias = Callable[[StreamTarget, float, TargetError | None], None]


def ignore_attempt(target: StreamTarget, began: float, failure: TargetError | None) -> None:
    """Do nothing with the result of an attempt."""


def _allow(address: str) -> Decision:
    return ALLOWED


def _never(sock: socket.socket) -> None:
    return None


def _permitted(addresses: Sequence[AddressInfo], permit: Callable[[str], Decision]) -> Sequence[AddressInfo]:
    """Return the addresses that are allowed, at least one. Raises TargetDenied."""
    decisions = [(address, permit(str(address[4][0]))) for address in addresses]
    allowed = [address for address, decision in decisions if decision.reason is None]
    if not allowed:
        raise TargetDenied(decisions[-1][1])
    return allowed


def check_supported(target: Target) -> Target:
    """Return `target` if this system can connect to it.

    Raises:
        ConfigurationError: it is a Unix socket, and the system has none.
    """
    if isinstance(target, UnixSocket) and not has_unix_sockets():
        raise ConfigurationError(
            f"the target {target} is a Unix socket, and this system has none",
            remedy="run the connector on the machine of the socket, or use a target with an address and a port",
        )
    return target


async def open_target(
    target: HostPort | UnixSocket,
    *,
    at: str = "",
    permit: Callable[[str], Decision] = _allow,
    in_parallel: bool = False,
    seconds: float = DIAL_SECONDS,
    spare: Spare | None = None,
) -> trio.SocketStream:
    """Connect to the target; its name, or the path of a Unix socket, is resolved on every call.

    Args:
        target: the target.
        at: the IP address to connect to; empty: all to which the target's name resolves.
        permit: decides about each IP address to which the name resolves, or about the path of the Unix socket without
            symbolic links and ``..``. Only what it allows is connected to: nothing is resolved a second time.
        in_parallel: whether to connect to several addresses at the same time, and not in a staggered race; see
            `open_tcp`.
        seconds: the deadline for resolving and connecting together.
        spare: see `open_tcp`.

    Raises:
        TargetDenied: `permit` allows no address.
        TargetError: with one of the TARGET reasons, or `Reason.OUT_OF_RESOURCES` if this machine lacks a resource.
            The text names no address, since it is sent to the client.
    """

    def choose(addresses: Sequence[AddressInfo]) -> Sequence[AddressInfo]:
        return _permitted(addresses, permit)

    with trio.move_on_after(seconds):
        try:
            if isinstance(target, UnixSocket):
                stream = await _open_unix(target, permit)
            else:
                stream = await open_tcp(
                    at or target.host,
                    target.port,
                    keep_reset=True,
                    choose=choose,
                    in_parallel=in_parallel,
                    purpose=Purpose.TARGET,
                    spare=spare,
                )
        except OSError as exc:
            raise _target_error(exc) from exc
        if is_reserved(stream.socket.fileno()):
            await abort_stream(stream)
            raise _out_of(OUT_OF_DESCRIPTORS)
        tune_socket(stream.socket, user_timeout=False)  # a target may pause indefinitely
        return stream
    raise TargetError(f"the target did not answer within {seconds:g} s", Reason.TARGET_TIMEOUT)


async def open_datagram_target(
    target: HostPort,
    *,
    permit: Callable[[str], Decision] = _allow,
    seconds: float = DIAL_SECONDS,
    foreign_since: Callable[[socket.socket], float | None] = _never,
) -> socket.socket:
    """Return a UDP socket that is connected to the target and does not block. Nothing is sent.

    Arguments and errors as for `open_target`. The first permitted address to which this machine has a route is used.
    `foreign_since` says of a connected socket when another application has had its local port; None means that it has
    not. If all of `_MAX_DRAWS` sockets have such a port, the one is used where that is longest ago.
    """
    with trio.move_on_after(seconds):
        try:
            found = _permitted(
                await resolve_host(target.host, target.port, socket.SOCK_DGRAM, purpose=Purpose.TARGET), permit
            )
            sock = _draw_port(found, foreign_since)
        except OSError as exc:
            raise _target_error(exc, datagram_shortage_of) from exc
        if is_reserved(sock.fileno()):
            sock.close()
            raise _out_of(OUT_OF_DESCRIPTORS)
        return sock
    raise TargetError(f"the name service did not answer within {seconds:g} s", Reason.TARGET_NAME_SERVICE_FAILED)


def _draw_port(
    addresses: Sequence[AddressInfo], foreign_since: Callable[[socket.socket], float | None]
) -> socket.socket:
    """Do what `_connect_datagrams` does, until the system has chosen a local port that may be used."""
    best, others = _connect_datagrams(addresses), list[socket.socket]()
    try:
        best_since = foreign_since(best)
        while best_since is not None and len(others) < _MAX_DRAWS - 1:
            others.append(_connect_datagrams(addresses))  # the others are open, so it gets another port
            since = foreign_since(others[-1])
            if is_reserved(others[-1].fileno()):
                break
            if since is None or since < best_since:
                best, others[-1], best_since = others[-1], best, since
    except OSError:
        pass  # there is no other port, or no descriptor
    for other in others:
        other.close()
    return best


def _connect_datagrams(addresses: Sequence[AddressInfo]) -> socket.socket:
    """Return a UDP socket that is connected to the first address for which that is possible. Raises OSError."""
    errors: list[OSError] = []
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.connect(address)
        except OSError as exc:
            sock.close()
            errors.append(exc)
        else:
            return sock
    raise OSError("; ".join(dict.fromkeys(map(str, errors)))) from ExceptionGroup("attempts", errors)


async def _open_unix(target: UnixSocket, permit: Callable[[str], Decision]) -> trio.SocketStream:
    """Connect to a Unix socket. Raises TargetDenied or OSError."""
    check_supported(target)
    with await UnixSocketFile.open(target.path) as found:
        decision = permit(found.path)
        if decision.reason is not None:
            raise TargetDenied(decision)
        stream = await found.connect()
    reset_on_close(stream, on=True)  # as for TCP; see `Bridges.start`
    return stream


def name_error(exc: OSError) -> TargetError:
    """Return the error for a name that cannot be resolved."""
    return _target_error(exc)


def _target_error(
    exc: OSError, shortage_of: Callable[[OSError], Shortage | None] = socket_shortage_of
) -> TargetError:
    """Combine the failures at all addresses that were tried into one error.

    Args:
        exc: the failure, whose causes are those at each address.
        shortage_of: determines whether one of them is a shortage of this machine.
    """
    if isinstance(exc, PathSilent):
        return TargetError(
            "the file system of the target's Unix socket does not answer",
            Reason.TARGET_TIMEOUT,
            remedy="check whether a network file system cannot be reached",
        )
    # There is one error for all addresses, whose cause has the error of each.
    failed = [cause for cause in causes(exc) if isinstance(cause, OSError)]
    for cause in failed:
        if (shortage := shortage_of(cause)) is not None:
            return _out_of(shortage)
    # A refusal at one address says more (the host exists) than a missing route to another one.
    reason = max(map(_reason, failed), key=lambda one: one.specificity, default=Reason.TARGET_UNREACHABLE)
    return TargetError(reason.describe, reason)


def _out_of(shortage: Shortage) -> TargetError:
    return TargetError(f"the connector {shortage.text}", Reason.OUT_OF_RESOURCES, remedy=shortage.remedy)


def _reason(cause: OSError) -> Reason:
    if isinstance(cause, socket.gaierror):
        known = cause.errno in _NAME_NOT_FOUND
        return Reason.TARGET_NAME_NOT_FOUND if known else Reason.TARGET_NAME_SERVICE_FAILED
    return _BY_ERRNO.get(cause.errno or 0, Reason.TARGET_UNREACHABLE)
