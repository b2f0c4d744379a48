"""Warns of port names that no installed transport has, because they are probably misspelled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..connectivity import all_ports, discover

logger = logging.getLogger("hybridrelay.cli")


def warn_of_unknown_ports(lists: Sequence[Mapping[str, int | None]] | None) -> None:
    """Log a warning for each port of ``--public-ports`` that no installed transport has.

    This is not an error: client and connector may have a transport that is not installed here.
    """
    names = sorted({name for ports in lists or () for name in ports})
    known = all_ports(discover()) if names else {}
    for name in names:
        if name not in known:
            logger.warning(
                "--public-ports: no transport that is installed here has a port named %s; programs without such a "
                "transport ignore it; check the spelling; the known names are: %s",
                name,
                ", ".join(known),
            )
