"""System calls of Linux that Python has no functions for, and the numbers that they need.

Calls through ctypes check the result, except in `connect_raw`, and raise OSError with the name of the call, so that a
refusal can be explained. The ioctls of notifications raise OSError without a name. This module is the only one that
uses ctypes for system calls of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import platform
import signal
import struct
from typing import Any, Final

__all__ = [
    "CAP_SYS_ADMIN",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWUSER",
    "become_subreaper",
    "bind_mount",
    "connect_raw",
    "die_with_parent",
    "forbid_new_privileges",
    "has_capability",
    "make_mounts_private",
    "mount_tmpfs",
    "notification_is_valid",
    "notify_listener",
    "open_signal_descriptor",
    "receive_notification",
    "send_response",
    "take_descriptor",
    "unmount",
    "unshare",
    "wake_with_parent",
]

# linux/sched.h
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000
# linux/mount.h
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
# linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
# linux/seccomp.h. The numbers of ioctl contain the sizes of the structures below.
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3
_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5
_SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC050_2100
_SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC018_2101
_SECCOMP_IOCTL_NOTIF_ID_VALID: Final = 0x4008_2102
#: The same before Linux 5.17, which had the direction wrong.
_SECCOMP_IOCTL_NOTIF_ID_VALID_OLD: Final = 0x8008_2102
#: struct seccomp_notif: id, pid, flags, and struct seccomp_data.
_NOTIFICATION_BYTES: Final = 80
#: System calls that the C library has no function for, by architecture.
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
#: The same on all architectures.
_PIDFD_GETFD: Final = 438
#: Capabilities, in linux/capability.h.
CAP_SYS_ADMIN: Final = 21
_SFD_FLAGS: Final = 0o2000000 | 0o4000  # SFD_CLOEXEC, SFD_NONBLOCK
#: The size of sigset_t of the C libraries (bytes).
_SIGSET_BYTES: Final = 128


@functools.cache
def _library() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _check(result: int, call: str) -> int:
    """Return the result of a call.

    Raises:
        OSError: it is negative. `filename` is the name of the call.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)
    return result


# --- namespaces and mounts


def unshare(flags: int) -> None:
    """Move this process, which must have one thread only, into new namespaces (unshare(2)).

    Raises:
        OSError: EPERM or EACCES: a security policy refuses it; ENOSPC or EUSERS: the limit of namespaces is reached;
            EINVAL: the kernel has no such namespaces, or the process has several threads.
    """
    _check(_library().unshare(ctypes.c_int(flags)), "unshare")


def make_mounts_private() -> None:
    """Keep mounts of this namespace from appearing in other ones, and those of other ones from appearing here.

    Raises:
        OSError: EACCES, EPERM: a security policy refuses it.
    """
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def mount_tmpfs(directory: str) -> None:
    """Mount an empty file system in memory on a directory.

    Raises:
        OSError: see `make_mounts_private`; or ENOENT.
    """
    _mount("tmpfs", directory, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def bind_mount(source: str, target: str) -> None:
    """Mount `source` over `target`, which has to exist.

    Raises:
        OSError: see `make_mounts_private`; or ENOENT.
    """
    _mount(source, target, None, _MS_BIND)


def unmount(directory: str) -> None:
    """Detach a mount at once. It ends as soon as nothing uses it any more.

    Raises:
        OSError: EINVAL: nothing is mounted there.
    """
    _check(_library().umount2(os.fsencode(directory), ctypes.c_int(_MNT_DETACH)), f"umount {directory}")


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    arguments = (os.fsencode(source), os.fsencode(target), None if kind is None else os.fsencode(kind))
    _check(_library().mount(*arguments, ctypes.c_ulong(flags), None), f"mount {target}")


# --- processes


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends.

    This survives `exec`, unless a program is executed that gains privileges.

    Args:
        parent: the parent's process id. If it has already ended, this process ends at once.

    Raises:
        OSError: not expected.
    """
    _at_end_of(parent, signal.SIGKILL)


def wake_with_parent(parent: int) -> None:
    """Undo `die_with_parent`: when the parent ends, this process is only continued, in case it was stopped.

    Args:
        parent: the parent's process id. If it has already ended, this process ends at once.

    Raises:
        OSError: not expected.
    """
    _at_end_of(parent, signal.SIGCONT)


def _at_end_of(parent: int, number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent ends; if that has already ended, end at once."""
    _prctl(_PR_SET_PDEATHSIG, number, "prctl PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def forbid_new_privileges() -> None:
    """Let nothing that this process executes gain privileges: set-user-ID programs run without them.

    Raises:
        OSError: EINVAL: the kernel is older than 3.5.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "prctl PR_SET_NO_NEW_PRIVS")


def become_subreaper() -> None:
    """Let descendants whose parents end become children of this process, which has to reap them.

    Raises:
        OSError: EINVAL: the kernel is older than 3.4.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "prctl PR_SET_CHILD_SUBREAPER")


def has_capability(number: int) -> bool:
    """Return whether a capability is in the effective set of this process."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _prctl(option: int, value: int, call: str) -> None:
    zero = ctypes.c_ulong(0)
    _check(_library().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), call)


def open_signal_descriptor(signals: frozenset[signal.Signals] | set[int]) -> int:
    """Return a descriptor that is readable while one of these signals is pending (signalfd(2)). The caller has to
    block them.

    Raises:
        OSError: no descriptor is left.
    """
    mask = (ctypes.c_ubyte * _SIGSET_BYTES)()
    found = _library()
    _check(found.sigemptyset(mask), "sigemptyset")
    for number in signals:
        _check(found.sigaddset(mask, ctypes.c_int(number)), "sigaddset")
    return _check(found.signalfd(ctypes.c_int(-1), mask, ctypes.c_int(_SFD_FLAGS)), "signalfd")


# --- seccomp user notification (seccomp_unotify(2))


def notify_listener(program: bytes) -> int:
    """Install a filter for this thread and everything that it executes.

    It needs `forbid_new_privileges` before. From Linux 5.19, only a deadly signal interrupts a call whose
    notification was received (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV). Before 6.18, unless the kernel has the
    correction of that version, a signal at the moment of the answer interrupts it, too.

    Args:
        program: instructions of classic BPF (struct sock_filter), of which at least one returns
            SECCOMP_RET_USER_NOTIF.

    Returns:
        The descriptor that gets the notifications.

    Raises:
        OSError: EINVAL, ENOSYS: the kernel is older than 5.0, or has no seccomp, or this module does not know the
            architecture; EBUSY: the process has such a filter already; EPERM, EACCES: a security policy refuses it.
    """
    try:
        return _set_filter(program, _SECCOMP_FILTER_FLAG_NEW_LISTENER | _SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # the kernel does not know the second flag
            raise
    return _set_filter(program, _SECCOMP_FILTER_FLAG_NEW_LISTENER)


def _set_filter(program: bytes, flags: int) -> int:
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and their address.
    description = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    descriptor = _library().syscall(
        ctypes.c_long(_number_of(_SECCOMP, "seccomp")),
        ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_ulong(flags),
        ctypes.c_char_p(description),
    )
    return _check(descriptor, "seccomp")


def receive_notification(descriptor: int) -> bytes:
    """Return the next notification, a struct seccomp_notif. Waits if there is none.

    Raises:
        OSError: ENOENT, EINTR: the process has ended or was interrupted in the meantime, so there is nothing to
        answer.
    """
    buffer = bytearray(_NOTIFICATION_BYTES)
    fcntl.ioctl(descriptor, _SECCOMP_IOCTL_NOTIF_RECV, buffer)
    return bytes(buffer)


def notification_is_valid(descriptor: int, identifier: int) -> bool:
    """Return whether the process still waits in the call, so that what was found by its id belongs to it."""
    data = struct.pack("=Q", identifier)
    for request in (_SECCOMP_IOCTL_NOTIF_ID_VALID, _SECCOMP_IOCTL_NOTIF_ID_VALID_OLD):
        try:
            fcntl.ioctl(descriptor, request, data)
        except OSError:
            continue
        return True
    return False


def send_response(descriptor: int, response: bytes) -> None:
    """Answer a notification with a struct seccomp_notif_resp.

    Raises:
        OSError: ENOENT: the process has ended or was interrupted.
    """
    fcntl.ioctl(descriptor, _SECCOMP_IOCTL_NOTIF_SEND, bytearray(response))


def take_descriptor(process: int, number: int) -> int:
    """Return a copy of a descriptor of another process (pidfd_getfd(2)). It refers to the same socket.

    Args:
        process: a descriptor of the process (`os.pidfd_open`).
        number: the descriptor's number there.

    Raises:
        OSError: EPERM: a security policy does not allow this process to trace that one; EBADF: there is no such
            descriptor; ESRCH: the process has ended; EMFILE: no descriptor is left here; ENOSYS: the kernel is older
            than 5.6.
    """
    found = _library().syscall(
        ctypes.c_long(_PIDFD_GETFD), ctypes.c_long(process), ctypes.c_long(number), ctypes.c_long(0)
    )
    return _check(found, "pidfd_getfd")


def connect_raw(descriptor: int, address: bytes) -> int:
    """Call connect(2) once, and return 0 or the error number. Unlike Python's, it never waits for the end of an
    attempt that a non-blocking socket has begun."""
    return 0 if _library().connect(ctypes.c_int(descriptor), address, len(address)) == 0 else ctypes.get_errno()


def _number_of(numbers: dict[str, int], call: str) -> int:
    machine = platform.machine()
    if machine not in numbers:
        raise OSError(38, f"not supported on {machine}", call)  # ENOSYS
    return numbers[machine]
