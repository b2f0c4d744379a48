"""Where options that come from a configuration file are in it, for messages about values that cannot be used."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..errors import ConfigurationError

__all__ = ["note_place", "place_of", "placed"]


def note_place(args: argparse.Namespace, option: str, place: str) -> None:
    """Note where an option is: ``connector.toml: line 3``. `option` is its name in the arguments."""
    args.places = {**getattr(args, "places", {}), option: place}


def place_of(args: argparse.Namespace, options: Iterable[str]) -> str:
    """Return where the first of these options is that comes from a file; empty if none does."""
    places: dict[str, str] = getattr(args, "places", {})
    return next((places[option] for option in options if option in places), "")


@contextmanager
def placed(args: argparse.Namespace, *options: str) -> Iterator[None]:
    """Put the place of the first of these options that comes from a file before the message of a
    `ConfigurationError`."""
    try:
        yield
    except ConfigurationError as exc:
        if place := place_of(args, options):
            # Changed in place, so that it keeps its class and its remedy.
            exc.args = (f"{place}: {exc}",)
        raise
