"""Output that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..administration import IncompleteChange
from . import output


def tell_updated(updated: Iterable[Path], incomplete: IncompleteChange | None) -> None:
    """Print which files were updated.

    Raises:
        IncompleteChange: `incomplete`, if it is not None.
    """
    for path in updated:
        output.say(f"updated {path}")
    if incomplete is not None:
        raise incomplete


def tell_of_missing_pins(relays: int, pins: int) -> None:
    """Print that there are fewer pins than relays."""
    output.say(
        f"There are {relays} relays, but only {pins} --relay-pin. Every relay has its own pin, in its ready line.\n"
        "Client and connector do not trust a relay whose pin is not among those given."
    )
