"""The demo: all roles in one process, with real data over real sockets."""
