"""What the command lines on pages have in common: where they reach the relay, and how they name files."""

from __future__ import annotations

import re
import shlex

from .visit import Visit

__all__ = ["LOOPBACK", "NEXT_LINE", "at_the_relay", "file_of", "management_url"]

#: What separates the lines of a long command.
NEXT_LINE = " \\\n  "
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


def at_the_relay(visit: Visit) -> tuple[str, str]:
    """Return the options by which a command reaches this relay, and where to run it."""
    url = management_url(visit)
    if url is None:
        return f"--state {visit.state_argument}", (
            "Run it on the relay's machine, as the user of the relay. The authority file has to be on that machine "
            "while the command runs. To run the command on your own machine instead, open this page over TLS, for "
            "which the relay needs the option --management."
        )
    return f"--management {shlex.quote(url)} --token-file admin.token", (
        "Run it on your own machine, where the authority file is. The file admin.token has to contain the management "
        "token of an administrator."
    )
