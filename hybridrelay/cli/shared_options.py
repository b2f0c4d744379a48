"""Options that several commands have, each with a meaning of its own."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from . import values

logger = logging.getLogger("hybridrelay.cli")


class MergePorts(argparse.Action):
    """Lists of ports from an option that may be given several times: for each port, the last one counts."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        """Add the ports in `value` to those that were given before."""
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **value})


def warn_of_unknown_ports(lists: Sequence[Mapping[str, int | None]] | None) -> None:
    """Log a warning for ports of ``--public-ports`` that no installed transport has.

    This is no error: client and connector may have a transport that is not installed here.
    """
    from ..connectivity import all_ports, discover

    names = sorted({name for ports in lists or () for name in ports})
    known = all_ports(discover()) if names else {}
    for name in names:
        if name not in known:
            logger.warning(
                "--public-ports: no transport that is installed here has a port named %s, and programs without such "
                "a transport ignore it; check the spelling, known are: %s",
                name,
                ", ".join(known),
            )


def add_endpoint(parser: argparse.ArgumentParser, *, means: str) -> None:
    """Add ``--endpoint``, once for each relay; a list in `endpoints`."""
    parser.add_argument(
        "--endpoint",
        metavar="HOST",
        dest="endpoints",
        type=values.endpoint,
        action="append",
        required=True,
        help=means,
    )


def add_update(parser: argparse.ArgumentParser, *, means: str) -> None:
    """Add ``--update``: files that are to be changed; a list, perhaps empty."""
    parser.add_argument("--update", metavar="F", type=values.path, nargs="+", action="extend", default=[], help=means)
