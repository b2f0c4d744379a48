"""The Trio shell of the relay: it serves connections, and does what the core decides."""
