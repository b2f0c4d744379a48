"""Finding the entries of a long list that are about a target, without looking at all of them. Pure.

A list may have 10,000 entries, and is consulted for every stream. When it is read, its entries are grouped by the
kind of their host: a name, a suffix of names, a network, or every host. Entries with the same host are merged into
ranges of ports, each with the first entry that covers it. A query then looks up the name, each suffix of the name,
and the prefix of the address for each length of prefix in the list. Its cost depends on the number of these lengths,
at most 33 for IPv4 and 129 for IPv6, and not on the number of entries.

The patterns in `values` say what an entry means. A test compares the two.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from ..security.names import ip_address, normal_host
from .values import ALL_PORTS, Address, HostPattern, LocalPattern, RelayPattern, TargetPattern, meanings

__all__ = ["FirstRanges", "HostIndex", "LocalIndex", "RelayIndex", "TargetIndex", "UnknownPort"]

HashableT = TypeVar("HashableT")


class UnknownPort(enum.Enum):
    """In place of a port that is not known yet: which entries count."""

    #: An entry about any port.
    SOME = enum.auto()
    #: Entries that are together about every port.
    EVERY = enum.auto()


class FirstRanges:
    """Ranges of numbers, and for each number the first of the ranges that contain it.

    Args:
        ranges: for each range its rank, its lowest and its highest number. The range with the lowest rank is the
            first.
    """

    def __init__(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        ordered = sorted(ranges)
        starts = sorted({bound for _, first, last in ordered for bound in (first, last + 1)})
        place = {start: number for number, start in enumerate(starts)}
        firsts: list[int | None] = [None] * len(starts)
        # Where to look for the next segment without a rank: at the segment itself, or if it has a rank, further on.
        # So each segment is visited once.
        free = list(range(len(starts) + 1))
        for rank, first, last in ordered:
            segment = _next_free(free, place[first])
            while segment < place[last + 1]:
                firsts[segment] = rank
                free[segment] = segment + 1
                segment = _next_free(free, segment + 1)
        self._starts: Sequence[int] = starts
        self._firsts: Sequence[int | None] = firsts

    def first(self, number: int) -> int | None:
        """Return the rank of the first range that contains a number; None if there is none."""
        segment = bisect_right(self._starts, number) - 1
        return None if segment < 0 else self._firsts[segment]

    def least(self) -> int | None:
        """Return the lowest rank; None if there is no range."""
        return min((rank for rank in self._firsts if rank is not None), default=None)

    def covering(self, first: int, last: int) -> int | None:
        """Return the rank of one of the ranges that together contain all numbers from `first` to `last`; None if they
        do not."""
        segments = range(bisect_right(self._starts, first) - 1, bisect_right(self._starts, last))
        ranks = [None if segment < 0 else self._firsts[segment] for segment in segments]
        found = [rank for rank in ranks if rank is not None]
        return max(found) if found and len(found) == len(ranks) else None


def _next_free(free: list[int], segment: int) -> int:
    root = segment
    while free[root] != root:
        root = free[root]
    while free[segment] != root:  # the next search from here is short
        free[segment], segment = root, free[segment]
    return root


class _Buckets(Generic[HashableT]):
    """Ranges of ports by a key of their hosts."""

    def __init__(self) -> None:
        self._collected: dict[HashableT, list[tuple[int, int, int]]] = defaultdict(list)
        self._ranges: Mapping[HashableT, FirstRanges] = {}

    def add(self, key: HashableT, ranked: tuple[int, int, int]) -> None:
        self._collected[key].append(ranked)

    def freeze(self) -> None:
        self._ranges = {key: FirstRanges(ranges) for key, ranges in self._collected.items()}
        self._collected.clear()

    def first(self, key: HashableT, port: int | UnknownPort) -> int | None:
        ranges = self._ranges.get(key)
        if ranges is None:
            return None
        if isinstance(port, int):
            return ranges.first(port)
        return ranges.least() if port is UnknownPort.SOME else ranges.covering(*ALL_PORTS)


class HostIndex:
    """The first of many patterns of hosts and ports that fits.

    Args:
        patterns: for each pattern its rank, the pattern of the host, and the lowest and highest port. The pattern
            with the lowest rank is the first.
    """

    def __init__(self, patterns: Iterable[tuple[int, HostPattern, int, int]]) -> None:
        self._names: _Buckets[str] = _Buckets()
        self._suffixes: _Buckets[str] = _Buckets()
        #: By version and length of the prefix, the prefixes as numbers.
        self._networks: dict[tuple[int, int], _Buckets[int]] = {}
        #: Every host, and every network.
        self._everywhere: _Buckets[str] = _Buckets()
        bounds: set[int] = set()
        for rank, host, first, last in patterns:
            ranked = rank, first, last
            bounds |= {first, last + 1}
            if host.network is not None:
                version, length = host.network.version, host.network.prefixlen
                prefix = _prefix(host.network.network_address, length)
                self._networks.setdefault((version, length), _Buckets()).add(prefix, ranked)
                self._everywhere.add("network", ranked)
            elif host.name:
                self._names.add(host.name, ranked)
            elif host.suffix:
                self._suffixes.add(host.suffix, ranked)
            else:
                self._everywhere.add("host", ranked)
        #: The ports at which ranges begin, or have ended, sorted. Ports between two of them have the same answers.
        self.bounds: Sequence[int] = sorted(bounds)
        for buckets in (self._names, self._suffixes, self._everywhere):
            buckets.freeze()
        for networks in self._networks.values():
            networks.freeze()

    def by_name(self, host: str, port: int | UnknownPort) -> Iterator[int]:
        """Yield, for each kind of pattern (every host, the name, a suffix), the rank of the first one that fits."""
        name = normal_host(host)
        found = [self._everywhere.first("host", port), self._names.first(name, port)]
        if ip_address(host) is None:
            dot = name.find(".")
            while dot >= 0:
                found.append(self._suffixes.first(name[dot:], port))
                dot = name.find(".", dot + 1)
        yield from (one for one in found if one is not None)

    def by_address(self, address: Address, port: int | UnknownPort, *, only_all: bool = False) -> Iterator[int]:
        """Yield, for each length of prefix, the rank of the first network that contains an address. `only_all`: only
        networks that contain all addresses."""
        for (version, length), buckets in self._networks.items():
            if version == address.version and not (only_all and length):
                found = buckets.first(_prefix(address, length), port)
                if found is not None:
                    yield found

    def any_network(self, port: int | UnknownPort) -> bool:
        """Return whether there is a network for this port."""
        return self._everywhere.first("network", port) is not None


def _prefix(address: Address, length: int) -> int:
    return int(address) >> (address.max_prefixlen - length)


class TargetIndex:
    """The entries of ``AllowedTargets`` or ``DeniedTargets``."""

    def __init__(self, patterns: Iterable[TargetPattern]) -> None:
        """`patterns`: in the order of the list."""
        ranked = tuple(enumerate(patterns))
        self._index = HostIndex(
            (rank, one.host, one.first_port, one.last_port) for rank, one in ranked if one.path is None
        )
        #: The first pattern for each path of a socket, and for each directory, with a final slash.
        self._paths = {one.path.path: rank for rank, one in reversed(ranked) if one.path is not None}
        every_target = (rank for rank, one in ranked if one.path is None and one.is_about_path(()))
        self._every_target = min(every_target, default=None)

    @property
    def bounds(self) -> Sequence[int]:
        """See `HostIndex.bounds`."""
        return self._index.bounds

    def first_about_path(self, paths: Iterable[str]) -> int | None:
        """Return the number of the first entry that is about a Unix socket (`TargetPattern.is_about_path`); None if
        there is none."""
        found = [rank for path in paths for rank in self._fitting(path)]
        if self._every_target is not None:
            found.append(self._every_target)
        return min(found, default=None)

    def permits_path(self, path: str | None) -> bool:
        """Return whether an entry allows a Unix socket (`TargetPattern.permits_path`)."""
        return bool(self._paths) if path is None else any(True for _ in self._fitting(path))

    def _fitting(self, path: str) -> Iterator[int]:
        """Yield the first pattern for this path, and for each directory on the way to it."""
        ends = (position + 1 for position, character in enumerate(path) if character == "/")
        for known in (path, *(path[:end] for end in ends)):
            if known in self._paths:
                yield self._paths[known]

    def first_about(self, host: str, port: int | UnknownPort, address: Address | None) -> int | None:
        """Return the number of the first entry that is about a target (`TargetPattern.is_about`); None if there is
        none."""
        found = list(self._index.by_name(host, port))
        if address is not None:
            for one in meanings(address):
                found += self._index.by_address(one, port)
        return min(found, default=None)

    def permits(self, host: str, port: int | UnknownPort, address: Address | None) -> bool:
        """Return whether an entry allows a target (`TargetPattern.permits`)."""
        if any(True for _ in self._index.by_name(host, port)):
            return True
        if address is None:
            return self._index.any_network(port)
        return any(True for _ in self._index.by_address(meanings(address)[-1], port))


class LocalIndex:
    """The entries of ``AllowedForwardAddresses``."""

    def __init__(self, patterns: Sequence[LocalPattern]) -> None:
        """`patterns`: in the order of the list."""
        addresses = [one.address for one in patterns if one.address is not None]
        self._index = HostIndex((rank, one.host, one.first_port, one.last_port) for rank, one in enumerate(addresses))
        self._paths = frozenset(one.path for one in patterns if one.path)

    @property
    def bounds(self) -> Sequence[int]:
        """See `HostIndex.bounds`."""
        return self._index.bounds

    def permits(self, host: str, port: int) -> bool:
        """Return whether an entry allows listening at an address (`LocalPattern.permits`)."""
        if any(True for _ in self._index.by_name(host, port)):
            return True
        address = ip_address(host)
        if address is None:
            return False
        return any(True for _ in self._index.by_address(address, port, only_all=address.is_unspecified))

    def permits_path(self, path: str) -> bool:
        """Return whether an entry allows listening on a Unix socket (`LocalPattern.permits_path`)."""
        return not self._paths.isdisjoint(("*", path))


class RelayIndex:
    """The entries of ``AllowedRelays``."""

    def __init__(self, patterns: Sequence[RelayPattern]) -> None:
        """`patterns`: in the order of the list."""
        #: The pins that are allowed.
        self.pins = frozenset(one.pin for one in patterns if one.pin)
        hosts = (one.host for one in patterns if one.host is not None)
        self._index = HostIndex((rank, host, *ALL_PORTS) for rank, host in enumerate(hosts))

    def permits(self, host: str) -> bool:
        """Return whether an entry allows the host of a relay. A pin allows none. Names of relays are not resolved, so
        a network allows only hosts that are written as addresses."""
        if any(True for _ in self._index.by_name(host, ALL_PORTS[0])):
            return True
        address = ip_address(host)
        if address is None:
            return False
        return any(True for _ in self._index.by_address(meanings(address)[-1], ALL_PORTS[0]))
