"""How late the event loop of the relay's main process is: while its workers move data, and in an idle relay.

Both relays run at the same time, so that a busy machine affects both. Each measures its own lag once a second, and
the histogram is read from its metrics (``hybridrelay_loop_lag_seconds``).
"""

from __future__ import annotations

import argparse
import re
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from .ports import HOST
from .programs import run
from .stage import Stage
from .systems.base import RELAY, Deployment
from .systems.ours import HYBRIDRELAY, HybridRelay

_METRIC = "hybridrelay_loop_lag_seconds"
#: The small requests: their size (bytes), the streams, and how many are sent on all streams together.
_CHATTY = {"size": 64, "streams": 64, "rate": 1000}
_PORTS = ("probe", "control", "data")
_SYSTEM = HybridRelay(
    "tcp", "native TCP, with metrics", "tcp", _PORTS, relay_options=("--management", f"{HOST}:0")
)  # fmt: skip


@attrs.frozen
class Loop:
    """Where the lag of one relay can be read."""

    address: str
    token: str

    def read(self) -> Mapping[float, int]:
        """Return how many measurements were at most as late as each bound (seconds, ascending)."""
        request = urllib.request.Request(
            f"http://{self.address}/metrics", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
        return parse_lag(text)


def parse_lag(metrics: str) -> Mapping[float, int]:
    """Return the cumulative buckets of the lag's histogram in the text of a relay's metrics."""
    found = re.findall(rf'^{_METRIC}_bucket{{le="([^"]+)"}} (\d+)', metrics, re.MULTILINE)
    return {float(bound): int(count) for bound, count in found}


def describe_lag(before: Mapping[float, int], after: Mapping[float, int]) -> str:
    """Return in words how late the loop was between two readings."""
    counts = {bound: count - before[bound] for bound, count in after.items()}
    total = counts[float("inf")]
    shown = [f"{100 * counts[bound] / total:.1f} % within {bound * 1000:g} ms" for bound in (0.001, 0.005, 0.01)]
    bounds = sorted(counts)
    most = min(bound for bound, count in counts.items() if count == total)
    latest = f"all within {most * 1000:g} ms" if most < bounds[-1] else f"some beyond {bounds[-2] * 1000:g} ms"
    return f"{total} measurements: {', '.join(shown)}, {latest}"


def _loop(deployment: Deployment) -> Loop:
    (relay,) = deployment.programs[RELAY]
    found = relay.wait_for_line(r"management\.listening: .* address=(?:http://)?([^ /]+:\d+)")
    token = deployment.directory / "token"
    run([*HYBRIDRELAY, "tokens", "create", "lag", "--role", "viewer", "--out", token,
         "--state", deployment.directory / "state"])  # fmt: skip
    return Loop(found[1], token.read_text().strip())


def report(seconds: float, streams: Sequence[int]) -> None:
    """Print the lag of both relays for each number of bulk streams, with small requests on others beside them."""
    with tempfile.TemporaryDirectory() as directory, Stage(Path(directory)) as stage:
        with stage.fresh(_SYSTEM) as busy, stage.fresh(_SYSTEM) as idle:
            loops = {"busy relay": _loop(busy), "idle relay": _loop(idle)}
            for count in streams:
                before = {name: loop.read() for name, loop in loops.items()}
                _move_data(stage, busy, count, seconds)
                print(f"{count} bulk streams, {_CHATTY['rate']} requests/s on {_CHATTY['streams']} streams")
                for name, loop in loops.items():
                    print(f"  {name}: {describe_lag(before[name], loop.read())}", flush=True)


def _move_data(stage: Stage, deployment: Deployment, streams: int, seconds: float) -> None:
    target = stage.server("target")[1].port
    beside = {"entry": deployment.entry, "target": target, "pids": {}, "direction": "both", "streams": streams}
    stage.load(deployment, "chatty", warm_up=1.0, seconds=seconds, beside=beside, **_CHATTY)


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lag", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement, at most 60 (60)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8], help="of bulk, in both directions (1 8)")
    arguments = parser.parse_args()
    report(arguments.seconds, arguments.streams)


if __name__ == "__main__":
    main()
