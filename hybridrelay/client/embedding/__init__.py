"""For programs that do not use Trio: a thread of the process runs clients for all of them.

`background.py` has the thread, `shared.py` the clients in it that sockets share, `sockets.py` and `forwards.py` what
programs call; `hybridrelay.aio` calls the same for asyncio.
"""
