"""What decides in the relay: pure machines without I/O, clock or randomness."""
