"""The demo: every role in one process, real bytes over real sockets."""
