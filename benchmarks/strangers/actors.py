"""The other processes of a flood: a target that echoes, a sender of messages to the target, and the flood itself."""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections import deque

from .peers import CONTROL, client_hello, loopback, preamble

MESSAGE = bytes(64)
#: How many connections a flood keeps open; it closes its oldest if there are more.
HELD = 2_000


def echo() -> None:
    """Print a port, and echo on all connections to it, indefinitely."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            streams = {connection}
            while streams:
                for one in select.select([*streams, server], [], [])[0]:
                    if one is server:
                        another, _ = server.accept()
                        another.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        streams.add(another)
                        continue
                    try:
                        data = one.recv(65536)
                        one.sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        one.close()
                        streams.discard(one)


def talk(port: int, interval: float) -> None:
    """Send a message every `interval` seconds over one connection. For each line of input, print the times so far."""
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times: list[float] = []
        due = time.perf_counter()
        while True:
            if select.select([sys.stdin], [], [], 0)[0]:
                if not sys.stdin.readline():
                    return
                print(json.dumps(times), flush=True)
                times = []
            due = max(due + interval, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            stream.sendall(MESSAGE)
            left = len(MESSAGE)
            while left:
                data = stream.recv(left)
                if not data:
                    raise ConnectionError("the stream ended")
                left -= len(data)
            times.append(time.perf_counter() - began)


def flood(port: int, what: str, rate: float, addresses: int, seconds: float) -> None:
    """Start `rate` handshakes per second from `addresses` addresses (0 means the usual one). Print the actual
    rate."""
    hello = client_hello()
    first = {"control": preamble(CONTROL) + hello, "https": hello, "http": b"GET / HTTP/1.1\r\nHost: r\r\n\r\n"}[what]
    held: deque[socket.socket] = deque()
    began = time.perf_counter()
    count = failed = 0
    while (now := time.perf_counter() - began) < seconds:
        if count > now * rate:
            time.sleep(0.001)
            continue
        wire = socket.socket()
        held.append(wire)
        try:
            wire.settimeout(1)
            if addresses:
                wire.bind((loopback(count % addresses), 0))
            wire.connect(("127.0.0.1", port))
            wire.sendall(first)
        except OSError:
            failed += 1
        count += 1
        while len(held) > HELD:
            held.popleft().close()
    print(json.dumps({"asked": count / (time.perf_counter() - began), "failed": failed}), flush=True)


def main() -> None:
    """Run one of the processes."""
    parser = argparse.ArgumentParser()
    who = parser.add_subparsers(dest="who", required=True)
    who.add_parser("echo")
    talker = who.add_parser("talk")
    talker.add_argument("port", type=int)
    talker.add_argument("interval", type=float)
    flooder = who.add_parser("flood")
    flooder.add_argument("port", type=int)
    flooder.add_argument("what")
    flooder.add_argument("rate", type=float)
    flooder.add_argument("addresses", type=int)
    flooder.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    match arguments.who:
        case "echo":
            echo()
        case "talk":
            talk(arguments.port, arguments.interval)
        case _:
            flood(arguments.port, arguments.what, arguments.rate, arguments.addresses, arguments.seconds)


if __name__ == "__main__":
    main()
