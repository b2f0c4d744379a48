"""A network of our own: four namespaces, and a firewall between them whose rules change while everything runs.

    client ──┐
             ├── router (nftables) ── relay
    private ─┘

The relay answers on every address of `RELAY_ADDRESSES`, so that many combinations of rules, one for each address, can
be tried at the same time.
"""

from __future__ import annotations

import ctypes
import enum
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from ..deployments import Program

CLIENT, PRIVATE, RELAY, ROUTER = "client", "private", "relay", "router"
RELAY_HOST = "10.71.3.2"
RELAY_ADDRESSES = ipaddress.ip_network("10.72.0.0/16")
PROBE, CONTROL, DATA, HTTPS, HTTP = 9350, 5671, 9352, 443, 80
NATIVE = (PROBE, DATA, CONTROL)
PORTS = (*NATIVE, HTTPS, HTTP)

_SUBNETS = {CLIENT: 1, PRIVATE: 2, RELAY: 3}
_STALL_PORT = 7777
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

_ROUTER_RULES = f"""
table ip firewall {{
  map verdicts {{ type ifname . ipv4_addr . inet_service : verdict; }}
  set stalling {{ type ifname . ipv4_addr . inet_service; }}
  chain rejected {{ reject with tcp reset; }}
  chain redirected {{
    type nat hook prerouting priority -100;
    iifname . ip daddr . tcp dport @stalling redirect to :{_STALL_PORT}
  }}
  chain forwarded {{
    type filter hook forward priority 0;
    iifname . ip daddr . tcp dport vmap @verdicts
    oifname . ip saddr . tcp sport vmap @verdicts
    oifname "{PRIVATE}" ct state new drop
  }}
}}
"""
_OUTBOUND_ONLY = """
table ip firewall {
  chain incoming {
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
  }
}
"""


class State(enum.Enum):
    """What the firewall does with a port."""

    OPEN = "open"
    #: Answered with a TCP reset: new connections are refused, those that exist are cut, on both sides.
    REFUSED = "refused"
    DROPPED = "dropped"
    #: Something accepts new connections in the relay's place, and never answers. Those that exist go on.
    STALLED = "stalled"


def missing() -> str | None:
    """What this machine lacks, or None."""
    if sys.platform != "linux":
        return "namespaces need Linux"
    if os.geteuid() != 0:
        return "namespaces need root"
    lacking = [tool for tool in ("ip", "nft") if _tool(tool) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(*command: str, text_in: str | None = None) -> None:
    tool = _tool(command[0])
    assert tool is not None
    done = subprocess.run(
        [tool, *command[1:]], check=False, input=text_in or "", capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Lab:
    """In a `with` block: the namespaces. At its end they are removed, with whatever is in them."""

    def __init__(self) -> None:
        self._prefix = f"hybridrelay-{os.getpid()}-"
        self._states: dict[tuple[str, str, int], State] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._make()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _make(self) -> None:
        for name in (*_SUBNETS, ROUTER):
            _run("ip", "netns", "add", self.namespace(name))
            self._stack.callback(_run, "ip", "netns", "delete", self.namespace(name))
            self._in(name, "ip", "link", "set", "lo", "up")
        for name, number in _SUBNETS.items():
            # Both ends are made where they belong: names need to be unique there only.
            self._in(
                ROUTER, "ip", "link", "add", name, "type", "veth",
                "peer", "name", "uplink", "netns", self.namespace(name),
            )  # fmt: skip
            self._in(ROUTER, "ip", "address", "add", f"10.71.{number}.1/24", "dev", name)
            self._in(ROUTER, "ip", "link", "set", name, "up")
            self._in(name, "ip", "address", "add", f"10.71.{number}.2/24", "dev", "uplink")
            self._in(name, "ip", "link", "set", "uplink", "up")
            self._in(name, "ip", "route", "add", "default", "via", f"10.71.{number}.1")
        self._in(ROUTER, "ip", "route", "add", str(RELAY_ADDRESSES), "via", RELAY_HOST)
        self._in(RELAY, "ip", "route", "add", "local", str(RELAY_ADDRESSES), "dev", "lo")
        self._in(ROUTER, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self._nft(ROUTER, _ROUTER_RULES)
        self._nft(PRIVATE, _OUTBOUND_ONLY)
        staller = Path(__file__).with_name("staller.py")
        program = Program(self.command(ROUTER, sys.executable, str(staller), str(_STALL_PORT)), name="staller")
        self._stack.enter_context(program)
        program.wait_for_line("^ready")

    def namespace(self, name: str) -> str:
        """The name that the system knows it by."""
        return self._prefix + name

    def command(self, name: str, *command: str) -> list[str]:
        """The command line that runs `command` in a namespace."""
        ip = _tool("ip")
        assert ip is not None
        return [ip, "netns", "exec", self.namespace(name), *command]

    def _in(self, name: str, *command: str) -> None:
        _run("ip", "netns", "exec", self.namespace(name), *command)

    def _nft(self, name: str, rules: str) -> None:
        nft = _tool("nft")
        assert nft is not None
        _run("ip", "netns", "exec", self.namespace(name), nft, "-f", "-", text_in=rules)

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Sockets that this thread makes in the block belong to that namespace, for as long as they live."""
        with ExitStack() as stack:
            # Not `os.setns`, which Python 3.11 does not have.
            for path in (f"/run/netns/{self.namespace(name)}", "/proc/thread-self/ns/net"):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                if path.startswith("/run"):
                    there = descriptor
                else:
                    stack.callback(_enter, descriptor)
            _enter(there)
            yield

    def listen(self, name: str) -> socket.socket:
        """A listening socket in a namespace, on its loopback interface."""
        with self.inside(name):
            sock = socket.socket()
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        return sock

    def set_many(self, states: Mapping[tuple[str, str, int], State]) -> None:
        """Change what happens to (side, relay address, port), all at the same instant."""
        changes = []
        for (side, address, port), state in states.items():
            before = self._states.get((side, address, port), State.OPEN)
            if state is before:
                continue
            key = f'"{side}" . {address} . {port}'
            changes += [f"delete element ip firewall {element}" for element in _elements(before, key, value=False)]
            changes += [f"add element ip firewall {element}" for element in _elements(state, key, value=True)]
            self._states[side, address, port] = state
        if changes:
            self._nft(ROUTER, "\n".join(changes))

    def reset(self) -> None:
        """Open everything."""
        self.set_many(dict.fromkeys(self._states, State.OPEN))

    def set(self, state: State, *ports: int, sides: Iterable[str] = (CLIENT, PRIVATE)) -> None:
        """The same state for these ports (none named: all) of `RELAY_HOST`, as seen from these sides."""
        self.set_many({(side, RELAY_HOST, port): state for side in sides for port in ports or PORTS})


def _elements(state: State, key: str, *, value: bool) -> Iterator[str]:
    match state:
        case State.OPEN:
            pass
        case State.STALLED:
            yield f"stalling {{ {key} }}"
        case State.REFUSED:
            yield f"verdicts {{ {key}{' : goto rejected' if value else ''} }}"
        case State.DROPPED:
            yield f"verdicts {{ {key}{' : drop' if value else ''} }}"


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
