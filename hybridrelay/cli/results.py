"""What several commands print about the results of use cases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..administration import IncompleteChange
from . import output


def tell_updated(updated: Iterable[Path], incomplete: IncompleteChange | None) -> None:
    """Print which files were updated.

    Raises:
        IncompleteChange: `incomplete`, if it is one.
    """
    for path in updated:
        output.say(f"updated {path}")
    if incomplete is not None:
        raise incomplete
