"""From arguments to an exit code; every failure becomes a line for people."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import exits, output
from .logs import flush_logs, set_up_logs, write_error
from .parser import build_parser

if TYPE_CHECKING:
    import argparse

    from ..errors import HybridRelayError
    from .reloading import ReloadRequests
    from .signals import Signals

logger = logging.getLogger("hybridrelay.cli")


def run_program(argv: Sequence[str] | None, signals: Signals) -> int:
    """See `hybridrelay.cli.main`.

    Args:
        argv: the arguments; None means those of this process.
        signals: handles signals already. Commands get it as `args.signals`.
    """
    args: argparse.Namespace | None = None
    try:
        if "--log-json" in (sys.argv[1:] if argv is None else argv):
            set_up_logs("warning", as_json=True)  # also for what is wrong with the arguments
        args = build_parser().parse_args(argv)
        args.signals = signals
        requests: ReloadRequests | None = getattr(args, "reload_requests", None)
        with contextlib.nullcontext() if requests is None else requests.caught():
            if signals.command_is_known(is_service=requests is not None) and requests is not None:
                requests.request()
            set_up_logs(args.log_level or args.default_log_level, as_json=bool(args.log_json))
            code = run_reporting(args.run, args)
        signals.release()
    except SystemExit as exc:  # argparse, after it has said what there is to say, or a signal
        code = exc.code if isinstance(exc.code, int) else exits.USAGE
    finally:
        signals.finish()
        failure = output.flush()
        flush_logs()
    if failure is None:
        return code
    message = f"cannot write to standard output: {failure.strerror}"
    _print_error(message, _OUTPUT_REMEDY, as_json=args is not None and bool(args.log_json))
    flush_logs()
    return code or exits.FAILED


def run_reporting(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command and say what made it fail; never a traceback, unless the log's level is debug."""
    from ..errors import HybridRelayError

    try:
        return run(args)
    except Exception as exc:
        from .._nursery import leaves
        from .._shortage import shortage_of

        logger.debug("the command failed", exc_info=True)
        for leaf in leaves(exc):
            if isinstance(leaf, HybridRelayError):
                _report_ours(leaf, as_json=bool(args.log_json))
            elif isinstance(leaf, OSError) and leaf.strerror:
                shortage = shortage_of(leaf)
                where = f": {leaf.filename}" if leaf.filename else ""
                message = f"{leaf.strerror}{where}" if shortage is None else f"this machine {shortage.text}"
                _print_error(message, None if shortage is None else shortage.remedy, as_json=bool(args.log_json))
            else:
                _print_error(_place(leaf), _BUG_REMEDY, as_json=bool(args.log_json), reason="internal-error")
        return max(map(_exit_code, leaves(exc)))


_OUTPUT_REMEDY = "make room there, or send the output elsewhere; apart from its output, the command has done its work"
_BUG_REMEDY = "this is a bug: run it again with --log-level debug, and report what it says"


def _exit_code(exc: BaseException) -> int:
    from ..errors import ConfigurationError, HybridRelayError

    if isinstance(exc, ConfigurationError):
        return exits.USAGE
    if isinstance(exc, HybridRelayError) or (isinstance(exc, OSError) and exc.strerror):
        return exits.FAILED
    return exits.BUG


def _report_ours(exc: HybridRelayError, *, as_json: bool) -> None:
    from .._shortage import shortage_of
    from ..errors import HybridRelayError

    message, remedy = str(exc), exc.remedy
    cause = exc.__cause__
    shortage = shortage_of(cause) if isinstance(cause, OSError) else None
    if shortage is not None and shortage.remedy != remedy:
        # The error's own remedy, such as to run as another user, is for other failures of the same operation.
        message, remedy = f"{message} (this machine {shortage.text})", shortage.remedy
    # Most errors have no reason of their own; the one of their class means a bug, which they are not.
    reason = exc.reason.slug if exc.reason is not HybridRelayError.reason or "reason" in vars(exc) else None
    _print_error(message, remedy, as_json=as_json, reason=reason)


def _place(exc: BaseException) -> str:
    """What a bug is called. Its text may hold anything, so it is left to the traceback."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"internal error: {type(exc).__name__}{where}"


def _print_error(message: str, remedy: str | None, *, as_json: bool, reason: str | None = None) -> None:
    if as_json:
        fields = {"reason": reason, "remedy": remedy}
        logger.error("%s", message, extra={"fields": {key: value for key, value in fields.items() if value}})
        return
    lines = [f"hybridrelay: error: {message}", *([f"  try: {remedy}"] if remedy else [])]
    printable = ["".join(char if char.isprintable() else " " for char in line) for line in lines]
    write_error("\n".join(printable) + "\n")
