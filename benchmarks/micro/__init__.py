"""Micro-benchmarks with pyperf: they measure parts of the code separately, so that regressions can be located."""
