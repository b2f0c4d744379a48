"""The baselines: no tunnel, and three processes in a row that only forward bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..ports import HOST
from ..programs import module
from .base import Deployment, System, program, start_chain

_HAPROXY = """\
global
  nbthread 1
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen hop
  bind {host}:{listen}
  server next {host}:{target}
"""


class Direct(System):
    """No tunnel, which shows the limits of the machine and the load generators."""

    name = "direct"
    description = "no tunnel"
    has_client = False

    def start(self, deployment: Deployment) -> None:
        """Start nothing: applications connect to the server."""
        deployment.entry = deployment.across(deployment.server.port)


class Haproxy(System):
    """Three haproxy processes with one thread each and otherwise default settings. Plaintext passes through user
    space."""

    name = "haproxy"
    description = "three haproxy processes, plaintext"
    descriptors_per_stream = 2
    needs = ("haproxy",)
    remedy = "apt install haproxy"

    def start(self, deployment: Deployment) -> None:
        """Write three configurations, and start them."""

        def hop(listen: int, target: int) -> Sequence[str | Path]:
            file = deployment.directory / f"haproxy-{listen}.cfg"
            file.write_text(_HAPROXY.format(host=HOST, listen=listen, target=target))
            return [program("haproxy"), "-db", "-f", file]

        start_chain(deployment, hop)


class Splice(System):
    """Three processes with the code that moves bytes in the relay. Plaintext stays in the kernel."""

    name = "splice"
    description = "three processes with our relay's pump, plaintext"
    descriptors_per_stream = 2

    def start(self, deployment: Deployment) -> None:
        """Start three forwarders."""
        start_chain(deployment, lambda listen, target: module("splice_hop", str(listen), str(target)))
