"""Micro-benchmarks by pyperf: parts of the code alone, so that a regression is found where it is."""
