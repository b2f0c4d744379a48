"""Identifying the network that this machine is in, and detecting that it changed or that the machine was
suspended."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path

import trio

#: How often clocks and addresses are compared (seconds). It costs a few system calls.
WATCH_SECONDS = 2.0
#: If the boot-time clock has advanced this much more than the monotonic one, the machine was suspended (seconds).
SLEEP_SECONDS = 5.0

#: Documentation addresses (RFC 5737, RFC 3849): connecting a datagram socket to one sends nothing, and shows which
#: local address the routing table would use for the Internet.
_FAR_AWAY = ((socket.AF_INET, ("192.0.2.1", 9)), (socket.AF_INET6, ("2001:db8::1", 9)))
#: The errors of a process that has no descriptor or no memory left.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def local_addresses() -> tuple[str, ...] | None:
    """Return the local addresses that this machine uses for the Internet; empty without a network. Sends nothing.

    None if they cannot be determined, because this process has no descriptor or no memory left.
    """
    found = []
    for family, address in _FAR_AWAY:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect(address)
                found.append(sock.getsockname()[0])
        except OSError as exc:
            if exc.errno in _SHORTAGES:
                return None
    return tuple(found)


def _gateways(table: Path = Path("/proc/net/route")) -> tuple[str, ...] | None:
    """Return the IPv4 default gateways, in the kernel's notation; empty on systems without that file.

    None in the same cases as for `local_addresses`.
    """
    try:
        rows = [line.split() for line in table.read_text("ascii").splitlines()[1:]]
    except OSError as exc:
        return None if exc.errno in _SHORTAGES else ()
    return tuple(sorted(row[2] for row in rows if len(row) > 2 and row[1] == "00000000"))


def network_key() -> tuple[object, ...] | None:
    """Identifies a network by this machine's addresses and default gateways; None if these cannot be determined."""
    addresses, gateways = local_addresses(), _gateways()
    return None if addresses is None or gateways is None else (addresses, gateways)


# On Linux, a separate clock runs during sleep; on macOS, the monotonic clock runs during sleep, and a separate one
# stops.
_MONOTONIC: int | None = getattr(time, "CLOCK_MONOTONIC", None)
_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", _MONOTONIC)
_AWAKE: int | None = getattr(time, "CLOCK_UPTIME_RAW", _MONOTONIC)


def boot_time() -> float:
    """Seconds on a clock that also runs while the machine sleeps; only differences are meaningful."""
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)


def awake_time() -> float:
    """Seconds on a clock that stops while the machine sleeps, if the system has one (Windows does not)."""
    return time.monotonic() if _AWAKE is None else time.clock_gettime(_AWAKE)


class NetworkState:
    """Detects that the machine was suspended or that its address changed. Clocks and addresses are arguments, for
    tests."""

    def __init__(
        self,
        *,
        boot: Callable[[], float] = boot_time,
        awake: Callable[[], float] = awake_time,
        addresses: Callable[[], tuple[str, ...] | None] = local_addresses,
    ) -> None:
        self._boot, self._awake, self._addresses = boot, awake, addresses
        self._lag = boot() - awake()
        self._last = addresses()

    def look(self) -> str | None:
        """Return a description of what changed since the last check, or None."""
        lag, addresses = self._boot() - self._awake(), self._addresses()
        if addresses is None or self._last is None:  # unknown, now or before
            addresses = self._last = self._last if addresses is None else addresses
        suspended, moved = lag - self._lag, addresses != self._last
        self._lag, self._last = lag, addresses
        if suspended >= SLEEP_SECONDS:
            return f"the machine was suspended for {suspended:.0f} s"
        return "the network address changed" if moved else None


async def watch_network(changed: Callable[[str], None], *, state: NetworkState | None = None) -> None:
    """Call `changed` with a description whenever the machine was suspended or its address changed, until
    cancelled."""
    state = state or NetworkState()
    while True:
        await trio.sleep(WATCH_SECONDS)
        if what := state.look():
            changed(what)
