"""Measures the cost of administering a relay with very many listeners: ``python -m benchmarks.administration``."""
