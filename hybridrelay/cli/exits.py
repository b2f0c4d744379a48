"""Exit codes, and an exception that decides about one."""

from __future__ import annotations

#: Success. A long-running command that was stopped on request has succeeded, too.
OK = 0
#: A failure at run time, such as no route, a refused key or a full disk.
FAILED = 1
#: Unusable input, such as arguments, files or a state directory. argparse uses the same code.
USAGE = 2
#: The policy of this machine does not allow what was requested.
DENIED = 3
#: What was to be verified is not authentic: audit files were changed.
NOT_AUTHENTIC = 4
#: A bug. This is EX_SOFTWARE in sysexits.h.
BUG = 70
#: ``run`` itself has failed: its arguments or files cannot be used, it could not start the application, or the
#: client's process was killed. Other programs that run programs use this code for all of their own failures as well
#: (timeout, env, docker run), so that these can be distinguished from the codes of the application.
NOT_STARTED = 125
#: Added to the number of the signal that ended a command before its work was done, as in shells (130 for Ctrl-C).
SIGNAL = 128


class EndedWhileServing(Exception):
    """A service has failed after it was ready. `__cause__` is why.

    Its configuration could be used when it was started, so `USAGE` would be wrong: after that, service managers do
    not start it again.
    """
