"""The options that say which fronts a forward has. A connector, which has none, loads no code of clients for them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

import attrs

from ..._unix_address import UnixAddress
from ..._value import Value

if TYPE_CHECKING:
    from ...client.ingress.users import FrontUsers

__all__ = ["FrontKey", "FrontOptions", "read_front_options"]

#: The kind of a front, and its address.
FrontKey: TypeAlias = tuple[str, tuple[str, int] | UnixAddress]


@attrs.frozen
class FrontOptions(Value):
    """Which fronts there are."""

    addresses: tuple[FrontKey, ...] = ()
    #: The users, one of whom has to authenticate; None: no authentication.
    users: FrontUsers | None = None


def read_front_options(args: argparse.Namespace, *, again: bool = False) -> FrontOptions:
    """Read the options of fronts, and the file with users.

    Args:
        args: the options of a forward.
        again: whether the program is already running, so that a pipe cannot be read.

    Raises:
        ConfigurationError: the file with users cannot be used.
    """
    given = {"socks": args.socks, "http-proxy": args.http_proxy, "dns": args.dns}
    keys: list[FrontKey] = [(kind, one) for kind, addresses in given.items() for one in addresses]
    file = args.front_users_file
    users = None
    if file is not None:
        from ...client.ingress.users import load_front_users  # imported here, because a connector has no fronts

        users = load_front_users(file, regular=again)
    return FrontOptions(tuple(dict.fromkeys(keys)), users)
