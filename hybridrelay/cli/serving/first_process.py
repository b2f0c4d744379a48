"""The first process of ``hybridrelay run``, which stands for the application. Linux only."""

from __future__ import annotations

import argparse
import os
import signal

from ...client.application.following import Messages, end_like, follow, start_client_process
from ...client.application.processes import without_signals
from .. import exits
from ..logs import flush_logs, print_error
from ..reporting import run_reporting
from .client_process import leave_standard_streams, run_client_process

__all__ = ["run_application"]


def run_application(args: argparse.Namespace) -> int:
    """Run the application, and return its exit code; or end by the signal that has ended it."""
    flush_logs()
    mask = without_signals()

    def run_client(messages: Messages) -> int:
        def serve(args: argparse.Namespace) -> int:
            run_client_process(args, messages, mask)
            return exits.OK

        code = run_reporting(serve, args)
        flush_logs()
        return code

    client, channel = start_client_process(run_client)
    with channel:
        leave_standard_streams()
        status, client_status = follow(client, channel)
    if status is None:
        return _not_started(client_status, as_json=bool(args.log_json))
    flush_logs()
    return end_like(status)


def _not_started(client_status: int, *, as_json: bool) -> int:
    """Return the exit code when there is no status of the application."""
    code = os.waitstatus_to_exitcode(client_status)
    if code < 0:
        name = signal.Signals(-code).name
        print_error(
            f"the process of the client was ended by {name}, and the application with it", None, as_json=as_json
        )
    return exits.NOT_STARTED
