"""What the command lines on pages have in common: where they reach the relay, and how they name files."""

from __future__ import annotations

import re

from .visit import Visit

__all__ = ["LOOPBACK", "file_of", "management_url"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def file_of(name: str) -> str:
    """Return the beginning of the names of the files of a hybrid connection."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).strip("-.")[:100] or "connection"


def management_url(visit: Visit) -> str | None:
    """Return the URL of this page's server, at which commands can use the management API.

    None if they cannot, because the page was loaded through the Unix socket, or without TLS from an address that is
    not loopback.
    """
    authority = visit.request.authority
    if visit.is_local or authority is None:
        return None
    # Commands send a token without TLS only to their own machine.
    return f"{visit.scheme}://{authority}" if visit.scheme == "https" or authority.host in LOOPBACK else None
