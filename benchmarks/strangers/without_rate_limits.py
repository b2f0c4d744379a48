"""Runs the command ``hybridrelay`` without rate limits for handshakes, to measure the upper bound of memory.

It changes constants of the package, because limits that protect the relay are not configurable.
"""

from __future__ import annotations

from hybridrelay.cli import main
from hybridrelay.relay.edge import permits
from hybridrelay.relay.limits import RateLimit

if __name__ == "__main__":
    for name in ("STRANGERS", "KNOWN", "ADDRESS", "PROVED", "KEY"):
        setattr(permits, f"HANDSHAKES_OF_{name}", RateLimit(burst=100_000, per_second=100_000.0))
    main()
