"""``python -m benchmarks.strangers``."""

from __future__ import annotations

import argparse


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strangers", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    memory = what.add_parser("memory", help="the relay's memory per connection, by port and phase")
    memory.add_argument("--connections", type=int, default=500)
    memory.add_argument("--only", default="", help="phases whose port/name contains this")
    mix = what.add_parser("mix", help="the relay's memory with 1,024 connections, in several phases at the same time")
    mix.add_argument("--only", default="", help="mixes whose name contains this")
    mix.add_argument("--without-rate-limits", action="store_true", help="do not limit handshakes: an upper bound")
    flood = what.add_parser("flood", help="an open stream, and a client that connects, during a flood")
    flood.add_argument("--mode", default="tcp", help="of connector and client: tcp or websocket")
    flood.add_argument("--rate", type=float, default=1500.0, help="handshakes that are started per second")
    flood.add_argument("--rounds", type=int, default=5)
    flood.add_argument("--seconds", type=float, default=3.0, help="the length of one measurement of the open stream")
    flood.add_argument("--entries", type=int, default=10, help="how often a client tries to connect")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        from . import memory as measured

        measured.report(arguments.connections, arguments.only)
    elif arguments.what == "mix":
        from . import mix as mixes

        mixes.report(arguments.only, rate_limits=not arguments.without_rate_limits)
    else:
        from . import latency

        latency.report(arguments.mode, arguments.rate, arguments.rounds, arguments.seconds, arguments.entries)


if __name__ == "__main__":
    main()
