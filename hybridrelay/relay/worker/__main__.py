"""The worker's process. Its arguments are CONTROL, MEMORY and KEEP: two descriptors, and for how long it keeps its
pairs without a main process (seconds)."""

from __future__ import annotations

import signal
import socket
import sys

from .loop import Worker


def main() -> None:
    """Run a worker until the main process ends it, or has ended and no other one takes the pairs over."""
    control, memory, keep = sys.argv[1:]
    # A signal to the whole group, such as Ctrl-C, is for the main process, which first lets connections finish.
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    worker = Worker(socket.socket(fileno=int(control)), int(memory), keep=float(keep))
    # A service manager that sends SIGTERM to the workers as well wants them to end with the main process.
    signal.signal(signal.SIGTERM, lambda _number, _frame: worker.end_with_main_process())
    worker.run()


if __name__ == "__main__":
    main()
