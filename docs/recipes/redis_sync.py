"""redis-py makes its connections with a class, which can be replaced by one that opens a socket in its own way."""

import socket

import redis

from hybridrelay import load_connection_string, open_socket

string = load_connection_string("application.txt")


class RelayConnection(redis.Connection):
    def _connect(self) -> socket.socket:
        sock = open_socket(string, timeout=self.socket_connect_timeout)
        sock.settimeout(self.socket_timeout)
        return sock


with redis.Redis(connection_pool=redis.ConnectionPool(connection_class=RelayConnection)) as client:
    client.set("greeting", "hello")
    print(client.get("greeting").decode())
