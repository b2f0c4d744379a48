"""Why a port cannot be listened on, and what to do about it."""

from __future__ import annotations

import errno
import sys

from ._nursery import leaves

#: Where the range begins from which Linux takes the ports of outgoing connections, unless it is told otherwise. On
#: other systems it begins higher.
_EPHEMERAL = 32768
#: What shows who has a port.
_WHO_LISTENS = {"linux": "ss -ltnp", "win32": "netstat -abn"}.get(sys.platform, "lsof -nP -iTCP")
_WHO_HAS_IT = {"linux": "ss -tanp"}.get(sys.platform, _WHO_LISTENS)

_PRIVILEGE = (
    "ports below 1024 need a privilege: set net.ipv4.ip_unprivileged_port_start, or AmbientCapabilities="
    "CAP_NET_BIND_SERVICE in the service's unit"
)


def explain_listen_error(error: OSError, port: int, *, otherwise: str) -> tuple[str, str]:
    """What `trio.open_tcp_listeners` failed with, for people.

    Args:
        error: what it raised.
        port: the number that was asked for.
        otherwise: what else can be done; "or ...".

    Returns:
        The problem in few words, and a remedy.
    """
    # Of several addresses that failed, Trio raises one error with theirs below it.
    causes = [leaf for leaf in leaves(error.__cause__ or error) if isinstance(leaf, OSError)]
    known = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
    cause = next((one for one in causes if one.errno in known), error)
    match cause.errno:
        case errno.EADDRINUSE:
            remedy = _who_has(port)
        case errno.EACCES:
            remedy = _PRIVILEGE
        case errno.EADDRNOTAVAIL:
            remedy = "give an address that an interface of this machine has"
        case _:
            return cause.strerror or str(error), otherwise.removeprefix("or ")
    return cause.strerror or str(error), f"{remedy}, {otherwise}"


def _who_has(port: int) -> str:
    if port < _EPHEMERAL:
        return f"find out who has it with '{_WHO_LISTENS}' (other users' programs are named to root alone)"
    return f"find out who has it with '{_WHO_HAS_IT}' (here it may be an outgoing connection)"
