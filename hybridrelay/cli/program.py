"""Runs a command from its arguments, and returns the exit code."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from . import exits, output
from .logs import flush_logs, print_error, set_up_logs
from .parser import build_parser
from .reloading import ReloadRequests
from .signals import Signals

_OUTPUT_REMEDY = (
    "free space there, or send the output elsewhere; except for its output, the command has done its work"
)


def run_program(argv: Sequence[str] | None, signals: Signals) -> int:
    """See `hybridrelay.cli.main`.

    Args:
        argv: the arguments; None means those of this process.
        signals: the signal handlers, which are already installed. Commands get this as `args.signals`. They also get
            `args.reload_requests`, which only services use.
    """
    args: argparse.Namespace | None = None
    try:
        if "--log-json" in (sys.argv[1:] if argv is None else argv):
            set_up_logs("warning", as_json=True)  # errors in the arguments are logged as JSON too
        args = build_parser().parse_args(argv)
        args.signals = signals
        args.reload_requests = ReloadRequests()
        with args.reload_requests.caught() if args.is_service else contextlib.nullcontext():
            if signals.command_is_known(is_service=args.is_service):
                args.reload_requests.request()
            set_up_logs(args.log_level or args.default_log_level, as_json=bool(args.log_json))
            from .reporting import run_reporting  # imported here, so that --help does not need it

            code = run_reporting(args.run, args)
        signals.release()
    except SystemExit as exc:  # raised by argparse, which has reported the error, or because of a signal
        code = exc.code if isinstance(exc.code, int) else exits.USAGE
    finally:
        signals.finish()
        failure = output.flush()
        flush_logs()
    if failure is None:
        return code
    message = f"cannot write to standard output: {failure.strerror or failure}"
    print_error(message, _OUTPUT_REMEDY, as_json=args is not None and bool(args.log_json))
    flush_logs()
    return code or exits.FAILED
