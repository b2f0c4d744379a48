"""Finds out which values of `Network` this machine allows, by trying them in processes that end immediately."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

from . import linux
from .addresses import Published
from .networks import Abilities, Network, NetworkSetup, Refusal
from .processes import NotPrepared, begin_application
from .refusals import Facts, explain

__all__ = ["find_abilities", "find_facts", "first_port"]

_NOTHING = Published((), {}, ())
_MOUNTS = NetworkSetup(Network.HOST, has_mounts=True, has_network=False, intercepts=False)
_PRIVATE = NetworkSetup(Network.PRIVATE, has_mounts=True, has_network=True, intercepts=False)
_INTERCEPT = NetworkSetup(Network.INTERCEPT, has_mounts=False, has_network=False, intercepts=True)
#: The default of the kernel.
_FIRST_PORT = 1024
#: A loopback address that no program uses.
_SOME_ADDRESS = "127.127.255.254"


def find_abilities() -> Abilities:
    """Try all values of `Network`. Takes some milliseconds, and leaves nothing behind. No thread may be running.

    Raises:
        OSError: no process can be started.
    """
    facts = find_facts()
    mounts = _try(_MOUNTS, facts)
    return Abilities(
        mounts,
        mounts or _try(_PRIVATE, facts),
        _try(_INTERCEPT, facts),
        first_port(),
    )


def first_port() -> int:
    """Return the lowest port that this process may open in the network of the machine."""
    found = _number("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    first = _FIRST_PORT if found is None else found
    return 1 if first > 1 and _may_open(first - 1) else first


def _may_open(port: int) -> bool:
    """Return whether this process may open a port, whether or not it is in use.

    Capabilities do not answer this: in a user namespace without a network of its own, root has all capabilities, but
    may open no more ports than an ordinary user.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((_SOME_ADDRESS, port))
        except PermissionError:
            return False
        except OSError:
            return True
    return True


def find_facts() -> Facts:
    """Return what this machine says about itself."""
    restricts = _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    return Facts(
        apparmor_restricts=None if restricts is None else bool(restricts),
        unprivileged_clone=_number("/proc/sys/kernel/unprivileged_userns_clone"),
        max_user_namespaces=_number("/proc/sys/user/max_user_namespaces"),
        ptrace_scope=_number("/proc/sys/kernel/yama/ptrace_scope"),
        in_container=_is_in_container(),
        program=os.path.realpath(sys.argv[0]) if os.path.isabs(sys.argv[0]) else "/usr/bin/hybridrelay",
    )


def _try(setup: NetworkSetup, facts: Facts) -> Refusal | None:
    try:
        process = begin_application([], _NOTHING, setup, mask=set())
    except NotPrepared as exc:
        return explain(exc.step, exc.number, exc.text, facts)
    try:
        if setup.intercepts:
            _use_process(process.pid, process.descriptor)
    except OSError as exc:
        return explain(str(exc.filename), exc.errno or 0, exc.strerror or str(exc), facts)
    finally:
        process.close()
        os.waitpid(process.pid, 0)
    return None


def _use_process(pid: int, descriptor: int) -> None:
    """Try on a process what is needed to redirect its calls.

    Raises:
        OSError: that is not allowed.
    """
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
    os.close(linux.take_descriptor(descriptor, 0))


def _number(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(Path(path).read_text(encoding="ascii"))
    return None


def _is_in_container() -> bool:
    """Return whether this is a container of Docker, Podman or Kubernetes, as far as one can tell."""
    if any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv")):
        return True
    return "KUBERNETES_SERVICE_HOST" in os.environ
