"""Notifies systemd of the state of a service, as in `sd_notify(3)`. Without systemd, this does nothing.

systemd waits for the service to be ready (``Type=notify``), shows its status, waits for a reload to be done
(``Type=notify-reload``), and restarts it when its event loop is stuck (``WatchdogSec=``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import trio

from ..streams.unix_sockets import short_path

__all__ = ["SystemdNotifier"]

logger = logging.getLogger("hybridrelay.cli")


class SystemdNotifier:
    """Sends notifications to the socket that systemd has named.

    Args:
        environ: the environment of the process.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        #: A name that begins with @ is in the abstract namespace of Linux.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if sys.platform == "win32" or address[:1] not in ("@", "/"):
            self._address = ""
        #: How often systemd expects a notification from the event loop (seconds); None means never.
        self.watchdog_seconds = self._watchdog_seconds(environ)
        self._has_failed = False

    def _watchdog_seconds(self, environ: Mapping[str, str]) -> float | None:
        wanted, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        if not self._address or not (wanted.isascii() and wanted.isdigit()) or pid not in ("", str(os.getpid())):
            return None
        return int(wanted) / 1e6 or None

    def ready(self, status: str) -> None:
        """Report that the service is ready, or that a reload is done. `status` is a line for people."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins. `ready` reports its end."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1", "STATUS=stopping")

    async def keep_watchdog(self) -> None:
        """Notify systemd that the event loop works, until cancelled. Returns at once if systemd has no watchdog for
        it."""
        if self.watchdog_seconds is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_seconds / 3)

    def _send(self, *lines: str) -> None:
        """Send one notification. Never waits, because systemd's socket has room for many."""
        if not self._address:
            return
        assert sys.platform != "win32"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, self._destination() as destination:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), destination)
        except OSError as exc:
            if not self._has_failed:  # the warning is logged only once
                logger.warning("systemd cannot be notified: %s", exc.strerror or exc)
            self._has_failed = True
        else:
            self._has_failed = False

    def _destination(self) -> AbstractContextManager[str]:
        """Return the address of systemd's socket during the block."""
        is_file = self._address.startswith("/")
        return short_path(Path(self._address)) if is_file else contextlib.nullcontext(self._address)
