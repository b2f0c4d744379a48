"""Ingress: the ways in which applications connect to a client.

Each kind of ingress is a module here. It accepts connections of applications, and `connections.py` bridges each with
one stream. They are local TCP ports and Unix sockets (`ports.py`), and fronts, which many hybrid connections share
(`fronts.py`).
"""
