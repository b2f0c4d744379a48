"""Which network this machine is in; and noticing that it changed, or that the machine slept."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path

import trio

#: How often clocks and addresses are compared (seconds). It costs a few system calls.
WATCH_SECONDS = 2.0
#: A boot-time clock that ran so much further than the monotonic one means that the machine slept (seconds).
SLEEP_SECONDS = 5.0

#: A documentation address (RFC 5737, RFC 3849): connecting a datagram socket to it sends nothing, and shows which
#: address of ours the routing table would use for the world.
_FAR_AWAY = ((socket.AF_INET, ("192.0.2.1", 9)), (socket.AF_INET6, ("2001:db8::1", 9)))
#: What a process can run out of while it looks.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def local_addresses() -> tuple[str, ...] | None:
    """The addresses that this machine uses towards the Internet; empty without a network. Sends nothing.

    None if this process could not find out, because it has no descriptor or no memory left.
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
    """The default gateways of IPv4 as the kernel writes them; empty on systems without that file.

    None as for `local_addresses`.
    """
    try:
        rows = [line.split() for line in table.read_text("ascii").splitlines()[1:]]
    except OSError as exc:
        return None if exc.errno in _SHORTAGES else ()
    return tuple(sorted(row[2] for row in rows if len(row) > 2 and row[1] == "00000000"))


def network_key() -> tuple[object, ...] | None:
    """What identifies a network: our addresses and the default gateways; None if this process could not find out."""
    addresses, gateways = local_addresses(), _gateways()
    return None if addresses is None or gateways is None else (addresses, gateways)


# Linux has a clock of its own that runs during sleep; on macOS the monotonic one does, and another stands still.
_MONOTONIC: int | None = getattr(time, "CLOCK_MONOTONIC", None)
_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", _MONOTONIC)
_AWAKE: int | None = getattr(time, "CLOCK_UPTIME_RAW", _MONOTONIC)


def boot_time() -> float:
    """Seconds on a clock that also runs while the machine sleeps; only differences count."""
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)


def awake_time() -> float:
    """Seconds on a clock that stands still while the machine sleeps, where there is one (not on Windows)."""
    return time.monotonic() if _AWAKE is None else time.clock_gettime(_AWAKE)


class Jumps:
    """Notices that the machine slept or that its address changed. Clocks and addresses are arguments, for tests."""

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
        """A description of what changed since the last check, or None."""
        lag, addresses = self._boot() - self._awake(), self._addresses()
        if addresses is None or self._last is None:  # unknown, now or before
            addresses = self._last = self._last if addresses is None else addresses
        slept, moved = lag - self._lag, addresses != self._last
        self._lag, self._last = lag, addresses
        if slept >= SLEEP_SECONDS:
            return f"the machine slept for {slept:.0f} s"
        return "the network address changed" if moved else None


async def watch_jumps(jumped: Callable[[str], None], *, jumps: Jumps | None = None) -> None:
    """Call `jumped` with what happened, whenever it does, until cancelled."""
    jumps = jumps or Jumps()
    while True:
        await trio.sleep(WATCH_SECONDS)
        if what := jumps.look():
            jumped(what)
