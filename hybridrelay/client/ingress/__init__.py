"""The ways by which connections of applications come to a client.

Each kind of ingress is a module here. It accepts what applications open, and joins each connection with one stream
(`connections.py`). There is one kind so far, the local TCP port (`ports.py`).
"""
