"""A worker's process that another process has started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys

import trio

__all__ = ["AdoptedProcess", "peer_of"]


class AdoptedProcess:
    """A process that is not a child of this one. Implements `worker_process.Process`. Only for Linux.

    Args:
        pid: its id. The process may already have ended, and the id may belong to another one by now. So call `kill`
            only if the process is known to have been alive after this object was made: because it has answered a
            message, or because its end of a socket is still open.

    Raises:
        OSError: the system does not permit this, or there is no such process.
    """

    def __init__(self, pid: int) -> None:
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            raise OSError("this system has no descriptors for processes")
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """Kill the process. Does nothing if it has ended."""
        assert sys.platform == "linux"
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until it has ended."""
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self._descriptor)
            self.returncode = 0  # only its parent can know it
            self.close()
        return self.returncode

    def close(self) -> None:
        """Forget the process, which continues."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return the process id and the user id of the process that has connected a Unix socket. Only for Linux."""
    assert sys.platform == "linux"
    pid, uid, _ = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
