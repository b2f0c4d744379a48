"""Options that can be changed while a program runs. Those of one part are changed together."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from .._value import Value
from ..errors import ConfigurationError
from .config_file import changed_options
from .option_places import placed

if TYPE_CHECKING:
    from .auditing import ProgramAudit
    from .status_served import StatusServer

__all__ = ["Changes", "OptionParts", "Part", "audit_part", "log_level_part", "status_part"]


@attrs.frozen
class Part(Value):
    """Options that are changed together: either all of them, or none."""

    #: Their names in the parsed arguments.
    options: frozenset[str]
    #: Applies the options of a namespace. If they cannot be used, it raises `ConfigurationError` or `OSError`, and
    #: has changed nothing.
    use: Callable[[argparse.Namespace], Awaitable[None]]


@attrs.frozen
class Changes(Value):
    """What `OptionParts.change` has changed."""

    #: The keys in the configuration file whose values have changed and are used.
    changed: tuple[str, ...]
    #: Why parts cannot be used, one for each.
    failures: tuple[ConfigurationError, ...]


class OptionParts:
    """The options of a running program, and how to apply changed ones.

    Args:
        args: the options that are in use. They are changed.
        parts: no option is in two of them.
    """

    def __init__(self, args: argparse.Namespace, parts: Sequence[Part]) -> None:
        self._args = args
        self._parts = parts
        #: All options that can be changed.
        self.options = frozenset[str]().union(*(part.options for part in parts))

    async def change(self, wanted: argparse.Namespace) -> Changes:
        """Use other options. If a part cannot be used, the others are; the next call tries it again.

        Args:
            wanted: all options.
        """
        changed: list[str] = []
        failures: list[ConfigurationError] = []
        for part in self._parts:
            trial = copy.copy(self._args)
            for option in part.options & vars(wanted).keys():
                setattr(trial, option, getattr(wanted, option))
            names = changed_options(self._args, trial)
            if not names:
                continue
            differing = [option for option in part.options if _value(self._args, option) != _value(wanted, option)]
            try:
                with placed(wanted, *sorted(differing)):
                    await _use(part, trial, names)
            except ConfigurationError as exc:
                failures.append(exc)
            else:
                for option in part.options & vars(wanted).keys():
                    setattr(self._args, option, getattr(wanted, option))
                changed += names
        return Changes(tuple(changed), tuple(failures))


def _value(args: argparse.Namespace, option: str) -> object:
    return getattr(args, option, None)


async def _use(part: Part, trial: argparse.Namespace, names: Sequence[str]) -> None:
    """Use the options of a part. Raises ConfigurationError, including in place of OSError."""
    try:
        await part.use(trial)
    except OSError as exc:
        detail = ": ".join(filter(None, (", ".join(names), exc.filename, exc.strerror or str(exc))))
        raise ConfigurationError(detail) from exc


def audit_part(audit: ProgramAudit) -> Part:
    """Return the options of the audit log."""
    options = {"audit_dir", "audit_keep", "audit_max_bytes", "audit_to", "audit_syslog_ca", "audit_required"}
    return Part(frozenset(options), audit.change)


def status_part(status: StatusServer) -> Part:
    """Return the option that says where the status is served."""

    async def use(args: argparse.Namespace) -> None:
        await status.change(args.status)

    return Part(frozenset({"status"}), use)


def log_level_part() -> Part:
    """Return the option that says what is in the log."""

    async def use(args: argparse.Namespace) -> None:
        await trio.lowlevel.checkpoint()
        logging.getLogger().setLevel((args.log_level or args.default_log_level).upper())

    return Part(frozenset({"log_level"}), use)
