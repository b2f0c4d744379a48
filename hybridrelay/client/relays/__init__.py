"""The client's connections to its relays: control channels, joins, and the data channels that result from joins."""
