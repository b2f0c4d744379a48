"""Measures what peers without a key cost the relay: memory in each phase, and the latency of others during a flood.

Run it with ``python -m benchmarks.strangers``. Like the rest of the suite, it uses only public names and commands,
except for `without_rate_limits`. It implements the relay's wire format itself, because a hostile peer does not use
our client.
"""
