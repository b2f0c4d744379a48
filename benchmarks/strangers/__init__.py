"""What a peer without a key can cost the relay: memory in each phase, and the latency of others under a flood.

Run it with ``python -m benchmarks.strangers``. Like the rest of the suite it uses public names and commands only,
except for `without_rate_limits`. It speaks the relay's wire format by itself, because a hostile peer does not use our
client.
"""
