"""Warns of ports that a relay has left, and that are still in an authority file."""

from __future__ import annotations

import logging
from pathlib import Path

from ..administration import Registry, other_ports
from ..security import format_ports

__all__ = ["warn_of_other_ports"]

logger = logging.getLogger("hybridrelay.cli")


def warn_of_other_ports(registry: Registry, name: str, authority_path: Path) -> None:
    """Log a warning if an authority file has other ports for its relay than this relay: what is issued gets them."""
    found = other_ports(registry, name, authority_path)
    if found is not None:
        there, here = (format_ports(ports) or "the default ports" for ports in found)
        logger.warning(
            "%s has %s for its relay, and this relay has %s: if the ports of the relay were changed, push an update, "
            "which corrects the file, too (hybridrelay updates push %s --public-ports ...)",
            authority_path,
            there,
            here,
            name,
        )
