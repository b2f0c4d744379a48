"""What administration costs a relay with very many listeners: ``python -m benchmarks.administration``."""
