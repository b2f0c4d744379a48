"""Port names that no installed transport has are most likely misspelled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..connectivity import all_ports, discover

logger = logging.getLogger("hybridrelay.cli")


def warn_of_unknown_ports(lists: Sequence[Mapping[str, int | None]] | None) -> None:
    """Log a warning for ports of ``--public-ports`` that no installed transport has.

    This is no error: client and connector may have a transport that is not installed here.
    """
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
