"""The metrics, with their units and whether higher values are better."""

from __future__ import annotations

import attrs


@attrs.frozen
class Metric:
    """One kind of figure."""

    title: str
    unit: str
    higher_is_better: bool
    digits: int = 0

    def format(self, value: float) -> str:
        """Format a value for people, without its unit."""
        return f"{value:,.{self.digits}f}"


#: The metrics by their names in samples and in JSON. Ratios are computed from the first metric of a case.
METRICS = {
    "mb_per_s": Metric("throughput", "MB/s", True, 1),
    "p50_us": Metric("median", "us", False),
    "p99_us": Metric("99th percentile", "us", False),
    "per_s": Metric("rate", "1/s", True),
    "ms": Metric("time", "ms", False, 1),
    "pause_ms": Metric("longest pause of a stream that survived", "ms", False, 1),
    "bytes_per_stream": Metric("client and connector, each", "bytes/stream", False),
    "relay_bytes_per_stream": Metric("relay", "bytes/stream", False),
    "streams": Metric("streams opened", "", True),
    "cpu_s_per_gb": Metric("CPU of everything between the ends", "s/GB", False, 2),
    "cpu_us_per_request": Metric("CPU of everything between the ends", "us/request", False),
}
