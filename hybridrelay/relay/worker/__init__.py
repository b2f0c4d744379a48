"""A worker of the relay: a process that moves the bytes of joined pairs of sockets, and does nothing else.

The relay's main process authenticates both sides and joins them. It then passes the two sockets to a worker, so that
the relay uses more than one core, and so that bulk data does not delay what the main process does. `loop` is the
worker's event loop, `pair` moves the bytes of one pair, and `messages` is the protocol between the two processes. The
other side of it is `relay.service.workers`.

A worker imports neither Trio nor any other part of hybridrelay.
"""
