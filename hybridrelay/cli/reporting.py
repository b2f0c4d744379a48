"""Converts each failure of a command into an error message and an exit code."""

from __future__ import annotations

import argparse
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from .._exception_groups import leaves
from .._shortage import OUT_OF_MEMORY, shortage_of
from ..errors import ConfigurationError, DeniedByPolicy, HybridRelayError
from ..protocol.reasons import Reason
from . import exits
from .logs import print_error

logger = logging.getLogger("hybridrelay.cli")


def run_reporting(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command, and report why it failed if it did. A traceback is only logged at level debug.

    Returns:
        The exit code. If the command has failed, that is `args.failure_code`, or if it is None, that of the failure.
    """
    try:
        return run(args)
    except Exception as caught:
        logger.debug("the command failed", exc_info=True)
        was_serving = isinstance(caught, exits.EndedWhileServing)
        exc = caught.__cause__ or caught if was_serving else caught
        for leaf in leaves(exc):
            if isinstance(leaf, HybridRelayError):
                _report_ours(leaf, as_json=bool(args.log_json))
            elif isinstance(leaf, OSError) and leaf.strerror:
                shortage = shortage_of(leaf)
                where = f": {leaf.filename}" if leaf.filename else ""
                message = f"{leaf.strerror or leaf}{where}" if shortage is None else f"this machine {shortage.text}"
                print_error(message, None if shortage is None else shortage.remedy, as_json=bool(args.log_json))
            elif _is_out_of_memory(leaf):
                text, remedy = f"this machine {OUT_OF_MEMORY.text}", OUT_OF_MEMORY.remedy
                print_error(text, remedy, as_json=bool(args.log_json), reason=Reason.OUT_OF_RESOURCES.slug)
            else:
                print_error(_place(leaf), _BUG_REMEDY, as_json=bool(args.log_json), reason="internal-error")
        if args.failure_code is not None:
            return int(args.failure_code)
        codes = map(_exit_code, leaves(exc))
        return max(exits.FAILED if was_serving and code == exits.USAGE else code for code in codes)


_BUG_REMEDY = "this is a bug: run it again with --log-level debug, and report what it says"


def _exit_code(exc: BaseException) -> int:
    if isinstance(exc, DeniedByPolicy):
        return exits.DENIED
    if isinstance(exc, ConfigurationError):
        return exits.USAGE
    if isinstance(exc, HybridRelayError) or (isinstance(exc, OSError) and exc.strerror) or _is_out_of_memory(exc):
        return exits.FAILED
    return exits.BUG


def _is_out_of_memory(exc: BaseException) -> bool:
    """Return whether `exc` is a MemoryError, or an error in Trio's code that a MemoryError has caused."""
    return isinstance(exc, MemoryError) or isinstance(exc.__cause__, MemoryError)


def _report_ours(exc: HybridRelayError, *, as_json: bool) -> None:
    message, remedy = str(exc), exc.remedy
    cause = exc.__cause__
    shortage = shortage_of(cause) if isinstance(cause, OSError) else None
    if shortage is not None and shortage.remedy != remedy:
        # The error's own remedy, such as running as another user, is for other causes.
        message, remedy = f"{message} (this machine {shortage.text})", shortage.remedy
    # Most errors have no reason of their own. The default reason of the base class means a bug, and is not shown.
    reason = exc.reason.slug if exc.reason is not HybridRelayError.reason or "reason" in vars(exc) else None
    print_error(message, remedy, as_json=as_json, reason=reason)


def _place(exc: BaseException) -> str:
    """Describe a bug by its type and place. The exception's text is only in the traceback, because it may contain
    secrets."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"internal error: {type(exc).__name__}{where}"
