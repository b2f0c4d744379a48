"""The worker's process: ``python -P -m hybridrelay.relay.worker CONTROL MEMORY``, with the two descriptors."""

from __future__ import annotations

import signal
import socket
import sys

from .loop import Worker


def main() -> None:
    """Run a worker until the main process ends it by closing its end of the socket."""
    # A signal to the whole group, such as Ctrl-C, or one of a service manager, is for the main process, which first
    # lets connections finish.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    control, memory = map(int, sys.argv[1:])
    Worker(socket.socket(fileno=control), memory).run()


if __name__ == "__main__":
    main()
