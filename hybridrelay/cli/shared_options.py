"""Options that several commands have, each with a meaning of its own."""

from __future__ import annotations

import argparse

from . import values


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
