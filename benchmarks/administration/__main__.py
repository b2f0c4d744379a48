"""``python -m benchmarks.administration``."""

from __future__ import annotations

import argparse


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.administration", description=__doc__)
    parser.add_argument("--listeners", type=int, default=10_000, help="each of a hybrid connection of its own")
    parser.add_argument("--followers", type=int, default=100, help="clients that follow events")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="the length of one measurement of the open stream")
    arguments = parser.parse_args()
    from . import cost

    cost.report(arguments.listeners, arguments.followers, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
