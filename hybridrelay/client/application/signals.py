"""Which signals that the first process gets are passed on to the application. Pure.

The application is in the same process group as the first process (the one that the shell has started), so whatever is
sent to the group reaches it without help: Ctrl-C, Ctrl-Z, a new size of the terminal, the end of the terminal. What
was sent to the first process alone has to be passed on.

1. A signal of the kernel, such as Ctrl-C, was sent to the whole group. It is not passed on.
2. A signal of the application itself was probably sent to its whole group. It is not passed on. Nor is a signal of
   the client's process, which is meant for the first process.
3. The same holds for a signal of a member of the group, if the first process leads the group.
4. Every other signal is passed on. If it was sent to the group by another program, as by ``kill %1`` in a shell, the
   application gets it twice.
"""

from __future__ import annotations

import signal
from collections.abc import Collection

import attrs

__all__ = ["ENDING", "Group", "is_passed_on"]

#: The signals that end the first process while the application does not run.
ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)  # fmt: skip


@attrs.frozen
class Group:
    """The process group of the first process and the application."""

    #: The number of the group.
    number: int
    #: Whether the first process is its leader.
    is_led: bool


def is_passed_on(*, code: int, sender: int, sender_group: int | None, ours: Collection[int], group: Group) -> bool:
    """Return whether the application is sent the same signal.

    Args:
        code: `si_code`. It is positive for signals of the kernel.
        sender: the process that has sent it; 0 if it is in another PID namespace.
        sender_group: the sender's process group; None if it has ended.
        ours: the processes of the application, and of the client.
        group: the process group of the first process and the application.
    """
    if code > 0 or sender in ours:
        return False
    return not (group.is_led and sender != 0 and sender_group == group.number)
