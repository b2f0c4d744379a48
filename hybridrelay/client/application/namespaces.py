"""Enters namespaces in which hosts have the names, addresses and ports that an application expects.

This is done in the application's process, between fork and exec. An ordinary user may do it, because a new user
namespace comes first: in it, the process has all capabilities over the other new namespaces, and none over those of
the machine. With exec, it loses them. The user id stays the same.

Nothing of this is visible outside: the private files are in a file system in memory that is mounted in the new mount
namespace only. When the last process in the namespaces ends, the kernel removes them, with everything in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from . import linux
from .addresses import Address, Published
from .files import hosts_file, nsswitch_file, resolver_file
from .loopback import bring_up_loopback

__all__ = ["NAMESERVER", "enter_mounts", "enter_namespaces", "listen_at", "open_private_listeners"]

#: The address of the name server of a private network, at port 53.
NAMESERVER = "127.0.0.53"
#: Where resolvers look for a name server if there is no resolv.conf.
_DEFAULT_NAMESERVER = "127.0.0.1"
_BACKLOG = 1024
#: Directories with the socket of the name service cache (nscd), which does not know an application's hosts file.
_CACHES = ("/run/nscd", "/var/run/nscd")
#: Directories of which one is the mount point of the private files for a moment. Any directory will do.
_STAGES = ("/tmp", "/run", "/var", "/home", "/mnt")  # noqa: S108 - nothing is written to the directory of the machine
#: The maximum size of a file in /etc that is replaced (characters). A hosts file against advertisements has several
#: million.
_MAX_FILE = 64 << 20


def enter_namespaces(*, network: bool) -> None:
    """Enter a new mount namespace, and a new network namespace if `network`.

    A process with CAP_SYS_ADMIN, which root has, needs no user namespace for that.

    Raises:
        OSError: this machine does not allow it. `filename` names the step.
    """
    flags = linux.CLONE_NEWNS | (linux.CLONE_NEWNET if network else 0)
    if linux.has_capability(linux.CAP_SYS_ADMIN):
        linux.unshare(flags)
    else:
        user, group = os.getuid(), os.getgid()
        linux.unshare(flags | linux.CLONE_NEWUSER)
        # A process may map its own group only if it has given up setgroups(2); see user_namespaces(7).
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    linux.make_mounts_private()


def enter_mounts(published: Published, *, alone: bool) -> str:
    """Replace files in /etc, in this mount namespace only, by versions with the names of the hosts.

    Args:
        published: the hosts with their addresses.
        alone: whether the application has a network of its own, with a name server.

    Returns:
        The address at which the application looks for a name server, if `alone`.

    Raises:
        OSError: this machine does not allow it, or a file is larger than `_MAX_FILE`. `filename` names the step, or
            the file.
    """
    nameserver = NAMESERVER if os.path.exists("/etc/resolv.conf") else _DEFAULT_NAMESERVER
    contents = {
        "/etc/hosts": hosts_file(_read("/etc/hosts"), published.names),
        "/etc/nsswitch.conf": nsswitch_file(_read("/etc/nsswitch.conf"), alone=alone),
    }
    if alone:
        contents["/etc/resolv.conf"] = resolver_file(_read("/etc/resolv.conf"), nameserver)
    # The C library works without the other two: it then uses the hosts file, and the default name server.
    contents = {path: text for path, text in contents.items() if path == "/etc/hosts" or os.path.exists(path)}
    for directory in {os.path.realpath(one) for one in _CACHES if os.path.isdir(one)}:
        linux.mount_tmpfs(directory)
    stage = next((one for one in _STAGES if os.path.isdir(one)), None)
    if stage is None:
        raise FileNotFoundError(errno.ENOENT, "no directory for private files", " or ".join(_STAGES))
    linux.mount_tmpfs(stage)
    for number, (path, text) in enumerate(contents.items()):
        file = Path(stage, str(number))
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        file.chmod(0o644)
        linux.bind_mount(str(file), os.path.realpath(path))  # resolv.conf is often a symbolic link
    linux.unmount(stage)  # the bind mounts stay
    return nameserver


def open_private_listeners(
    addresses: Sequence[Address], nameserver: str
) -> tuple[list[socket.socket], socket.socket]:
    """Bring up the network of this namespace, and open the listeners in it.

    Returns:
        A listener for each address, and the socket of the name server.

    Raises:
        OSError: an address cannot be used, or this process may not configure the network. `filename` names the step.
    """
    bring_up_loopback(host for host, _ in addresses)
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listen_at(address)) for address in addresses]
        names = stack.enter_context(_open_name_server((nameserver, 53)))
        stack.pop_all()
    return listeners, names


def listen_at(address: Address) -> socket.socket:
    """Listen at an IP address.

    Raises:
        OSError: EADDRINUSE, EADDRNOTAVAIL, EACCES. `filename` names the step, with the address.
    """
    host, port = address
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        shown = f"[{host}]" if ":" in host else host
        raise OSError(exc.errno, exc.strerror, f"listen at {shown}:{port}") from exc
    return listener


def _open_name_server(address: Address) -> socket.socket:
    """Open the socket of the name server. Raises OSError; `filename` names the step, with the address."""
    host, port = address
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind(address)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, exc.strerror, f"listen at {host}:{port} (UDP)") from exc
    return sock


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return ""
    if len(text) > _MAX_FILE:  # a part of it could end in the middle of a name
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return text


def _write(path: str, text: str) -> None:
    # Without O_CREAT and O_TRUNC, and in one write(2), because these files belong to the kernel.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
    finally:
        os.close(descriptor)
