"""The client at its relays: control channels, joins, and the data channels that result from them."""
