"""What a decision of the policy costs with the longest lists: ``python -m benchmarks.policy``.

For each kind of list, a policy file with 10,000 entries is read, and a stream is decided about many times. Beside it
is what looking at every entry costs, for the kinds of lists for which `TargetPattern` can do that.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

from hybridrelay.policy import Action, Policy, Resource
from hybridrelay.policy.document import MAX_ENTRIES
from hybridrelay.policy.toml_files import parse_policy_file
from hybridrelay.policy.values import address_of
from hybridrelay.security import HostPort, PeerIdentity, Role

_TARGET, _ADDRESS = HostPort("db9999.corp.example", 5432), "10.200.1.1"
_RESOURCE = Resource("orders", _TARGET, address=_ADDRESS, at=dt.datetime(2026, 3, 4, 12, 0))  # noqa: DTZ001 - local
_SUBJECT = PeerIdentity("orders", Role.APPLICATION, "shop", "0a", 4e9)


def _network(number: int) -> str:
    """Return a network, of another length than the previous one."""
    length = 1 + number % 32
    address = (0x0A000000 + 7 * number) >> (32 - length) << (32 - length)
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0)) + f"/{length}"


#: For each kind of list: the key, and an entry by its number.
CASES: dict[str, tuple[str, Callable[[int], str]]] = {
    "allowed names": ("AllowedTargets", lambda n: f"db{n}.corp.example:5432"),
    "allowed ports of one name": ("AllowedTargets", lambda n: f"db9999.corp.example:{n + 1}"),
    "denied networks of one length": ("DeniedTargets", lambda n: f"10.{n // 256}.{n % 256}.0/24:1-1000"),
    "denied networks of all lengths": ("DeniedTargets", lambda n: f"{_network(n)}:1-5"),
    "denied identities": ("DeniedIdentities", lambda n: f"application-{n}"),
    "allowed hours": ("AllowedHours", lambda n: f"Mon-Sun {n // 60 % 12:02}:{n % 60:02}-24:00"),
}


def measure(key: str, entry: Callable[[int], str], repetitions: int) -> dict[str, float]:
    """Measure one kind of list. Times are in milliseconds (reading) and microseconds (decisions)."""
    lines = [f'"{entry(number)}",' for number in range(MAX_ENTRIES)]
    text = "\n".join([f"{key} = [", *lines, "]"])
    began = time.perf_counter()
    file = parse_policy_file("10-long.toml", text)
    found = {"ms to read": (time.perf_counter() - began) * 1e3}
    policy = Policy(files=(file,))
    found["us"] = _median(lambda: policy.decide(_SUBJECT, Action.OPEN_STREAM, _RESOURCE), repetitions)
    targets = file.allowed_targets or file.denied_targets
    if targets is not None:
        patterns, address = targets.values(), address_of(_ADDRESS)

        def look_at_all() -> bool:
            if key == "DeniedTargets":
                return any(one.is_about(_TARGET, address) for one in patterns)
            return any(one.permits(_TARGET, address) for one in patterns)

        found["us without an index"] = _median(look_at_all, max(3, repetitions // 100))
    return found


def _median(call: Callable[[], object], repetitions: int) -> float:
    took: list[float] = []
    for _ in range(repetitions):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def main() -> None:
    """Measure every kind of list, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    arguments = parser.parse_args()
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps(machine))
    for name, (key, entry) in CASES.items():
        result = measure(key, entry, arguments.repetitions)
        print(json.dumps({"list": name, **{what: round(value, 1) for what, value in result.items()}}))


if __name__ == "__main__":
    main()
