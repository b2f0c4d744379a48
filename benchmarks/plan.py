"""How much is measured. The short form takes about 16 minutes, the full one more than an hour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Plan:
    """The parameters of a run. They are part of its results."""

    #: How often each measurement is made. The systems take turns.
    rounds: int = 3
    #: The length of each measurement, without its warm-up (seconds).
    seconds: float = 1.0
    #: The warm-up at the beginning of each measurement, which is discarded (seconds).
    warm_up: float = 0.4
    #: The cases of bulk: (streams, direction).
    bulk: tuple[tuple[int, str], ...] = ((1, "down"), (1, "up"), (10, "down"))
    #: The cases of requests: (bytes of a request and of its response, streams).
    requests: tuple[tuple[int, int], ...] = ((64, 1), (64, 16), (4096, 16))
    #: How many streams open at the same time.
    opens: tuple[int, ...] = (1, 16)
    chatty_streams: int = 1000
    chatty_bytes: int = 512
    #: Requests per second, on all streams together.
    chatty_rate: float = 500.0
    bulk_beside_chatty: int = 3
    idle_streams: int = 10_000
    idle_rounds: int = 1
    #: The round trip times of lines (milliseconds).
    round_trips: tuple[float, ...] = (60.0,)
    #: The rate of a line (bytes per second): 200 Mbit/s.
    line_rate: float = 25e6
    line_rounds: int = 1
    #: How long a stream may take to reach its full rate (seconds).
    line_start: float = 3.0
    line_directions: tuple[str, ...] = ("down",)
    pgbench_scripts: tuple[str, ...] = ("transactions",)
    pgbench_clients: int = 8
    redis_clients: int = 50
    redis_requests: int = 4000
    #: A system that has not reconnected within this time has failed.
    reconnect_seconds: float = 15.0
    #: How many streams exchange data while the relay is restarted.
    restart_streams: int = 50

    def as_parameters(self) -> Mapping[str, Any]:
        """Return the parameters in the form in which they are stored with the results."""
        return attrs.asdict(self)


SHORT = Plan()
FULL = Plan(
    rounds=7,
    seconds=3.0,
    warm_up=1.0,
    bulk=tuple((streams, direction) for streams in (1, 10, 100) for direction in ("down", "up", "both")),
    requests=tuple((size, streams) for size in (64, 4096, 65536) for streams in (1, 16, 128)),
    idle_rounds=3,
    round_trips=(20.0, 60.0, 150.0),
    line_rounds=3,
    line_directions=("down", "up"),
    pgbench_scripts=("transactions", "select"),
    redis_requests=20_000,
)
