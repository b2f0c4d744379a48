"""The decisions of the relay: pure machines without I/O. Clocks and random numbers are passed to them."""
