"""The decisions of the relay: pure machines without I/O, clock or randomness."""
