"""Runs a load generator: ``python -m benchmarks.load KIND``."""

from __future__ import annotations

import importlib
import json
import sys

from ..limits import raise_descriptor_limit

KINDS = ("bulk", "requests", "chatty", "opens", "idle")


def main() -> None:
    """Run one generator, and print what it measured."""
    (kind,) = sys.argv[1:]
    if kind not in KINDS:
        sys.exit(f"unknown load {kind!r}: {', '.join(KINDS)}")
    raise_descriptor_limit()
    measure = importlib.import_module(f".{kind}", __package__).measure
    try:
        result = measure(**json.loads(sys.stdin.read()))
    except (OSError, EOFError) as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
