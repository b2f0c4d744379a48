"""``NO_PROXY``: the addresses that are reached directly.

There is no standard; curl, Go and Python's requests agree on these rules. Entries are separated by commas or white
space. ``*`` covers everything. A name covers itself and its subdomains, whether it is written ``example.com``,
``.example.com`` or ``*.example.com``. An IP address covers itself. ``10.0.0.0/8`` covers a network: it applies only
if the relay is given as an address, because names are not resolved here. ``:port`` after a name or an address limits
the entry to that port.
"""

from __future__ import annotations

import ipaddress
from typing import Self

import attrs

from ..._value import Value
from ...security.names import ip_address, is_loopback, normal_host, parse_port_untrusted

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen
class _Entry(Value):
    #: A name in lower case, a network, or None for everything.
    what: str | Network | None
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.what is None:
            return True
        address = ip_address(host)
        if address is None:
            name = normal_host(host)
            return isinstance(self.what, str) and (name == self.what or name.endswith(f".{self.what}"))
        return not isinstance(self.what, str) and address in self.what


@attrs.frozen
class NoProxy(Value):
    """The parsed value of ``NO_PROXY``; see the module's docstring."""

    _entries: tuple[_Entry, ...] = ()
    #: Whether loopback addresses are always reached directly, since a proxy would reach its own machine instead.
    _loopback: bool = False

    @classmethod
    def parse(cls, text: str, *, loopback: bool = False) -> Self:
        """Parse a list. As in other programs, an invalid entry covers nothing and is not an error."""
        entries = (_parse_entry(item) for item in text.replace(",", " ").split())
        return cls(tuple(entry for entry in entries if entry is not None), loopback)

    def covers(self, host: str, port: int) -> bool:
        """Return whether to connect directly to this address. An IPv6 address has no brackets."""
        return (self._loopback and is_loopback(host)) or any(entry.covers(host, port) for entry in self._entries)


def _parse_entry(item: str) -> _Entry | None:
    what, port = item.lower(), None
    if what.startswith("[") or what.count(":") == 1:
        what, colon, digits = what.rpartition(":") if not what.endswith("]") else (what, "", "")
        if colon:
            try:
                port = parse_port_untrusted(digits)
            except ValueError:
                return None
        what = what.strip("[]")
    if what == "*":
        return _Entry(None, port)
    try:
        network = ipaddress.ip_network(what, strict=False)
        address = ip_address(str(network.network_address))
        if address is not None and network.prefixlen == network.max_prefixlen:  # also unmaps an IPv4-mapped address
            network = ipaddress.ip_network(address)
        return _Entry(network, port)
    except ValueError:
        name = what.removeprefix("*").strip(".")
        return _Entry(name, port) if name else None
