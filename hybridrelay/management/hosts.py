"""The host names in the Host header that the management API serves over TCP. Pure.

An attacker can let the name of a web page resolve to the relay's address; the page's scripts then reach the relay as
if it were the page's own server (DNS rebinding). Such requests have the page's name in the Host header, so only known
names are served. Addresses cannot be rebound, so all of them are served.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator

__all__ = ["AllowedHosts"]


class AllowedHosts(Collection[str]):
    """The allowed names, as `http.Service.hosts`.

    Args:
        names: the names that are always allowed, besides ``localhost``.
        certified: returns the names in the current certificate. The asterisk of ``*.example.com`` stands for one
            label.
    """

    def __init__(self, names: Iterable[str], certified: Callable[[], Collection[str]] = tuple) -> None:
        self._names = frozenset({"localhost", *(name.lower().removesuffix(".") for name in names)})
        self._certified = certified

    def __contains__(self, host: object) -> bool:
        if not isinstance(host, str):
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return True
        name = host.removesuffix(".")
        _, dot, parent = name.partition(".")
        certified = self._certified()
        return name in self._names or name in certified or (bool(dot) and f"*.{parent}" in certified)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names | set(self._certified()))

    def __len__(self) -> int:
        return len(self._names | set(self._certified()))
