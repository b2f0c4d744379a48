"""Self-hosted Hybrid Connections: reach one TCP resource inside a private network that opens no inbound port."""

__version__ = "0.1.0"
