"""Redirects an application's calls of connect(2), without namespaces: seccomp user notification.

The kernel stops a thread of the application that calls connect(2), and notifies the client's process, which looks at
the address. If this is a published one, the client takes a copy of the application's own socket (pidfd_getfd(2)), and
begins to connect it to a listener of its own. Because it is the same socket, its options, its mode and its
registrations with epoll stay as they are. If the client has a name server, UDP sockets that query another one are
connected to it, and services that look up names (`_NAME_SERVICES`) seem not to run. All other calls are executed as
the application has made them, or fail with ENOBUFS if the client lacks descriptors or memory.

A signal may interrupt a call at any time. If its handler restarts calls (SA_RESTART), the call is made again, which
is another notification, for a socket that is already being connected or is connected. The kernel knows what a call
has to return for such a socket, and ignores the address. So a blocking call is executed as soon as its socket is
being connected: it waits for the connection, and signals interrupt it as always. A non-blocking call returns a result
that is given to it here. If a signal keeps this result from the application, the next call for the same socket gets
it.

This works for programs that know nothing of it. It is not a sandbox: a program that changes the address in its memory
after it was checked, or that connects by another system call (io_uring), can connect to any address.

The listeners are on loopback addresses of the machine, where any local user could connect to them. So they admit only
connections that were made here: those whose two addresses were noted (`Redirected.admits`). The local address alone
does not identify a connection: the kernel gives the same one to connections of several users, as long as they lead to
different listeners.
"""

# This module is long because an answer to a call depends on every state that the application's socket can be in.

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

import trio

from ..._descriptors import is_reserved
from ..._shortage import shortage_of
from ...events.client import ApplicationNotRedirected
from ...events.stream import EventStream
from . import linux
from .addresses import Address
from .seccomp import (
    ADDRESS_BYTES,
    Notification,
    SocketAddress,
    continue_response,
    error_response,
    pack_address,
    parse_address_untrusted,
    parse_notification,
    result_response,
)

__all__ = ["Redirected", "redirect_connections"]

KeyT = TypeVar("KeyT")
T = TypeVar("T")

_DNS_PORT: Final = 53
#: The longest time that a listener of this program may take to answer (seconds).
_CONNECT_SECONDS: Final = 30.0
#: How long a connection is admitted after it was begun (seconds). It may fail without notice, and its address then
#: belongs to nobody.
_ADMITTED_SECONDS: Final = 2 * _CONNECT_SECONDS
#: How many connections that were not accepted yet, how many resolvers, and how many undelivered results are
#: remembered.
_MAX_NOTED: Final = 65536
#: The Unix sockets of services that look up names for programs, and do not know the published ones. Connecting to
#: them fails as if these services did not run, so that the C library looks up names itself.
_NAME_SERVICES: Final = frozenset(
    {"/run/nscd/socket", "/var/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"}
)
#: Identifies a socket: no other one has the same number, not even later (asm-generic/socket.h).
_SO_COOKIE: Final = 57
#: The state of a TCP socket that is neither connected nor being connected (net/tcp_states.h).
_TCP_CLOSE: Final = 7
#: Errors that mean that the process has ended, or that a signal has interrupted its call.
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.EINTR})


class Redirected:
    """Where calls are redirected to, and which sockets were redirected.

    Args:
        listeners: for each published address, the address of the listener that serves it.
        name_server: the address of the name server to which queries to any other are redirected; None if names are
            resolved in another way.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        listeners: Mapping[Address, Address],
        name_server: Address | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.listeners = listeners
        self.name_server = name_server
        #: The local address and the listener of each connection that was not accepted yet, and when it was begun.
        self._connections = _Noted[tuple[Address, Address], float]()
        #: The local address of each socket that queries the name server, and the server that it wanted to query.
        self._resolvers = _Noted[Address, Address]()

    def note(self, local: Address, listener: Address) -> None:
        """Note that a connection from this address will arrive at a listener."""
        self._connections.add((local, listener), self._clock())

    def withdraw(self, local: Address, listener: Address) -> None:
        """Note that no connection from this address will arrive at a listener."""
        self._connections.take((local, listener))

    def admits(self, peer: Address, listener: Address) -> bool:
        """Return whether a connection that a listener has accepted from this address was made here, within the last
        minute. Forgets the connection."""
        begun = self._connections.take((peer, listener))
        return begun is not None and self._clock() - begun <= _ADMITTED_SECONDS

    def note_resolver(self, local: Address, server: Address) -> None:
        """Note that a socket with this address queries the name server, instead of `server`."""
        self._resolvers.add(local, server)

    def wanted_server(self, local: Address) -> Address | None:
        """Return which server a socket wanted to query; None if it was not redirected."""
        return self._resolvers.get(local)


class _Noted(Generic[KeyT, T]):
    """Values by keys. The oldest one is forgotten when there are too many."""

    def __init__(self) -> None:
        self._values: dict[KeyT, T] = {}

    def add(self, key: KeyT, value: T) -> None:
        self._values.pop(key, None)
        if len(self._values) >= _MAX_NOTED:
            del self._values[next(iter(self._values))]
        self._values[key] = value

    def get(self, key: KeyT) -> T | None:
        return self._values.get(key)

    def take(self, key: KeyT) -> T | None:
        """Remove a value, and return it; None if it was not there."""
        return self._values.pop(key, None)


async def redirect_connections(descriptor: int, redirected: Redirected, *, events: EventStream) -> None:
    """Answer notifications until the application and all of its processes have ended, or until cancelled.

    If cancelled, calls that wait for an answer fail with ENOSYS when the descriptor is closed.

    Args:
        descriptor: gets the notifications. The caller closes it.
        redirected: where calls are redirected to.
        events: the stream to which an event is published if calls cannot be redirected.
    """
    interception = _Interception(descriptor, redirected, events)
    async with trio.open_nursery() as nursery:
        while await interception.wait():
            if (notification := interception.receive()) is not None:
                interception.answer(notification, nursery)
        nursery.cancel_scope.cancel()


class _Interception:
    def __init__(self, descriptor: int, redirected: Redirected, events: EventStream) -> None:
        self._descriptor = descriptor
        self._redirected = redirected
        self._events = events
        self._has_warned = False
        #: By the cookies of sockets: the result of a call that no call has returned, because a signal has interrupted
        #: the one that it was for.
        self._undelivered = _Noted[int, int]()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    async def wait(self) -> bool:
        """Wait for a notification. Returns False if there will be none, because no process has the filter."""
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            # Receiving blocks if there is nothing to receive, so make sure that there is something.
            for _, found in self._poll.poll(0):
                if found & select.POLLIN:
                    return True
                if found:
                    return False

    def receive(self) -> Notification | None:
        try:
            return parse_notification(linux.receive_notification(self._descriptor))
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
            return None

    def answer(self, notification: Notification, nursery: trio.Nursery) -> None:
        """Answer a notification. Does not wait: a connection that is not made at once is watched by a task."""
        response = continue_response(notification.identifier)
        try:
            address = parse_address_untrusted(_memory_of(notification))
            if address is not None and address.path:
                if self._redirected.name_server is not None and address.path in _NAME_SERVICES:
                    response = error_response(notification.identifier, errno.ENOENT)
            elif address is not None and (target := self._target_of(address)) is not None:
                sock = self._socket_of(notification)
                if sock is not None and _is_redirected(sock, address, self._redirected):
                    self._redirect(notification, sock, address, target, nursery)
                    return
                if sock is not None:
                    sock.close()
        except OSError as exc:
            self._warn(notification, exc)
            if shortage_of(exc) is not None:
                # The address may be a published one. Executed as it was made, the call could reach another machine.
                response = error_response(notification.identifier, errno.ENOBUFS)
        self._send(response)

    def _target_of(self, address: SocketAddress) -> Address | None:
        """Return where a connection to `address` goes instead; None if it is not redirected."""
        target = self._redirected.listeners.get((address.host, address.port))
        return self._redirected.name_server if target is None and address.port == _DNS_PORT else target

    def _socket_of(self, notification: Notification) -> socket.socket | None:
        """Return a copy of the application's socket; None if its call was interrupted.

        Raises:
            OSError: it may not be copied, or is not a socket.
        """
        process = os.pidfd_open(_process_of(notification.thread))
        try:
            copied = linux.take_descriptor(process, notification.descriptor)
        finally:
            os.close(process)
        # If the thread still waits in its call, its id cannot have been reused for another one in the meantime.
        if not linux.notification_is_valid(self._descriptor, notification.identifier):
            os.close(copied)
            return None
        try:
            return socket.socket(fileno=copied)
        except OSError:
            os.close(copied)
            raise

    def _redirect(
        self, notification: Notification, sock: socket.socket, address: SocketAddress, target: Address,
        nursery: trio.Nursery,
    ) -> None:  # fmt: skip
        """Begin to connect a copy of the application's socket, and answer. Closes the copy."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if sock.type == socket.SOCK_DGRAM:
                self._redirect_resolver(notification, sock, address, target)
                return
            cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), sys.byteorder)
            is_blocking = os.get_blocking(sock.fileno())
            result = self._undelivered.take(cookie)
            if _is_unconnected(sock):
                result = _begin_to_connect(sock, target)
                if result in (0, errno.EINPROGRESS):
                    # Before anything is awaited: the listener may get the connection at any time.
                    self._redirected.note(_local_address(sock), target)
                if result == errno.EINPROGRESS and not _is_connected(sock):
                    stack.pop_all()
                    nursery.start_soon(self._watch, sock, target)
            if result is None or (is_blocking and result == errno.EINPROGRESS):
                self._send(continue_response(notification.identifier))
            elif not self._send(_response(notification, result)) and result in (0, errno.EINPROGRESS):
                self._undelivered.add(cookie, result)

    def _redirect_resolver(
        self, notification: Notification, sock: socket.socket, address: SocketAddress, server: Address
    ) -> None:
        """Connect a socket to the name server, and answer. If the call is interrupted, it can be made again."""
        result = linux.connect_raw(sock.fileno(), _packed(sock, server))
        if result == 0:
            self._redirected.note_resolver(_local_address(sock), (address.host, address.port))
        self._send(_response(notification, result))

    async def _watch(self, sock: socket.socket, target: Address) -> None:
        """Wait until a connection is made, or has failed and is not admitted any more.

        Until then, the copy stays open, so that the local address cannot become that of another user, even if the
        application closes its socket.
        """
        with sock:
            local = _local_address(sock)
            if not is_reserved(sock.fileno()):  # otherwise, the listener resets new connections
                with trio.move_on_after(_CONNECT_SECONDS):
                    await trio.lowlevel.wait_writable(sock.fileno())
            if not _is_connected(sock):
                self._redirected.withdraw(local, target)

    def _send(self, response: bytes) -> bool:
        """Answer a call. Returns False if it was interrupted, or its process has ended."""
        try:
            linux.send_response(self._descriptor, response)
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
            return False
        return True

    def _warn(self, notification: Notification, error: OSError) -> None:
        """Report once that calls are not redirected, unless the process has just ended."""
        if error.errno not in _GONE and not self._has_warned:
            self._has_warned = True
            detail = f"{error.filename or 'redirecting'}: {error.strerror or error}"
            self._events.publish(ApplicationNotRedirected(process=notification.thread, detail=detail))


def _is_redirected(sock: socket.socket, address: SocketAddress, redirected: Redirected) -> bool:
    """Return whether a socket is of the kind that is redirected: TCP, or UDP for queries to a name server."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if sock.type == socket.SOCK_DGRAM:
        return address.port == _DNS_PORT and redirected.name_server is not None
    return sock.type == socket.SOCK_STREAM and (address.host, address.port) in redirected.listeners


def _local_address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return host.removeprefix("::ffff:"), port


def _is_connected(sock: socket.socket) -> bool:
    """Return whether a socket that was connecting is connected now. Takes no error from it, which is for the
    application."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_unconnected(sock: socket.socket) -> bool:
    """Return whether a call of connect(2) would begin to connect a socket."""
    try:
        (state,) = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:  # Multipath TCP, on older kernels
        return not _is_connected(sock)
    return state == _TCP_CLOSE


def _begin_to_connect(sock: socket.socket, target: Address) -> int:
    """Begin to connect a socket, and return EINPROGRESS; or another error number, or 0.

    A blocking socket is made non-blocking for this moment, in which its application waits in its call, and which ends
    before anything can be sent or received.
    """
    is_blocking = os.get_blocking(sock.fileno())
    if is_blocking:
        os.set_blocking(sock.fileno(), False)
    try:
        return linux.connect_raw(sock.fileno(), _packed(sock, target))
    finally:
        if is_blocking:
            os.set_blocking(sock.fileno(), True)


def _packed(sock: socket.socket, target: Address) -> bytes:
    return pack_address(*target, is_ipv6=sock.family == socket.AF_INET6)


def _response(notification: Notification, result: int) -> bytes:
    """Return the answer that lets the call return 0, or fail with an error number."""
    if result:
        return error_response(notification.identifier, result)
    return result_response(notification.identifier, 0)


def _memory_of(notification: Notification) -> bytes:
    """Return the address that the application has passed, or its beginning.

    Raises:
        OSError: its memory cannot be read.
    """
    size = min(notification.length, ADDRESS_BYTES)
    path = f"/proc/{notification.thread}/mem"
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, notification.pointer)
    except OSError as exc:
        if exc.errno == errno.EIO:  # the pointer is invalid: the kernel will tell the application
            return b""
        raise
    except OverflowError:  # the pointer is too large to be an address
        return b""
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _process_of(thread: int) -> int:
    """Return the process to which a thread belongs.

    Raises:
        OSError: it has ended.
    """
    # The application chooses the name in this file. The kernel escapes line feeds in it, but nothing else that ends a
    # line of text.
    with open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Tgid:"):
                return int(line.removeprefix(b"Tgid:"))
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
