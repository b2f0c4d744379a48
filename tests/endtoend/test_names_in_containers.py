"""An application in a container reaches hybrid connections by name, through a forward in a sidecar.

As in a pod of Kubernetes, both share a network namespace, and the application has a root file system of its own: here
a mount namespace, in which hosts or resolv.conf are mounted over the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from hybridrelay._own_address import own_addresses

from ..deployments import Deployment, Program, free_port, skip_unless_ci
from ..waiting import patience

NAME = "intranet.corp.example"
ADDRESS = own_addresses([NAME])[NAME]
DNS = "127.0.0.153"


@attrs.define
class Pod:
    """A network namespace, with everything in it."""

    directory: Path
    #: Runs a command in the network namespace.
    enter: tuple[str, ...]
    port: int
    forward: Program

    def application(self, script: str) -> str:
        """Run a shell script with a root file system of its own. Returns its output."""
        command = [*self.enter, "unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(60))
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def pod(directory: Path, *options: str) -> Iterator[Pod]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("makes namespaces, which needs root on Linux")
    for program in ("unshare", "nsenter", "ip", "curl", "dig"):
        if shutil.which(program) is None:
            skip_unless_ci(f"needs {program}")
    (directory / "web").mkdir()
    (directory / "web" / "index.html").write_text("reached")
    hold = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep 3600"]
    with Program(hold) as namespace, Deployment(directory) as deployment:
        namespace.wait_for_line("ready")
        enter = ("nsenter", f"--net=/proc/{namespace.pid}/ns/net")
        web = [*enter, sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
        web += ["--directory", str(directory / "web")]
        with Program(web) as target:
            target_port = int(target.wait_for_line(r" port (\d+)")[1])
            deployment.start_relay(wrapper=enter)
            published = deployment.create("web", ("127.0.0.1", target_port))
            port = free_port()
            change = ("connections", "set-local-name", "web", "--local-name", f"{NAME}:{port}")
            done = deployment.run(*change, "--update", published.application)
            assert done.returncode == 0, done.stderr
            deployment.start_connector(published, arguments=["--mode", "tcp"], wrapper=enter)
            files = ("--connection-string-file", published.application)
            forward = deployment.start("forward", *files, "--mode", "tcp", *options, wrapper=enter)
            yield Pod(directory, enter, port, forward)


def test_names_in_a_pod(tmp_path: Path) -> None:
    with pod(tmp_path, "--listen", "own", "--dns", f"{DNS}:53") as made:
        check_host_aliases(made)
        check_hosts_file(made)
        check_name_server(made)


def check_host_aliases(made: Pod) -> None:
    """``hostAliases`` of a pod, or ``--add-host`` of Docker: a hosts file that the run-time mounts."""
    hosts = made.directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
    script = f"mount --bind {hosts} /etc/hosts; curl --silent --show-error http://{NAME}:{made.port}/"
    assert made.application(script) == "reached"


def check_hosts_file(made: Pod) -> None:
    """``hosts apply`` in the application's container, where the hosts file is a mount point."""
    hosts = made.directory / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    apply = f"{sys.executable} -m hybridrelay hosts"
    script = (
        f"mount --bind {hosts} /etc/hosts\n"
        f"{apply} apply --connection-string-file {made.directory / 'web.application'} > /dev/null\n"
        f"curl --silent --show-error http://{NAME}:{made.port}/\n"
        f"{apply} remove > /dev/null\n"
        "cat /etc/hosts"
    )
    assert made.application(script) == "reached127.0.0.1 localhost\n"


def check_name_server(made: Pod) -> None:
    """It is asked with dig, and by the resolver of the C library, which asks for A and AAAA at the same time."""
    dig = f"dig @{DNS} +time=5 +tries=2"
    for option in ("+notcp", "+tcp", "+noedns", "+nocookie +dnssec"):
        assert made.application(f"{dig} {option} +short A {NAME.upper()}") == f"{ADDRESS}\n"
    answers = {f"AAAA {NAME}": "NOERROR", f"A x.{NAME}": "NXDOMAIN", "A example.com": "REFUSED"}
    for question, status in answers.items():
        shown = made.application(f"{dig} {question}")
        assert f"status: {status}" in shown
        assert "ANSWER: 0" in shown
        assert "malformed" not in shown
    resolver = made.directory / "resolv.conf"
    resolver.write_text(f"search default.svc.cluster.local\noptions ndots:5\nnameserver {DNS}\n")
    script = (
        f"mount --bind {resolver} $(realpath /etc/resolv.conf)\ncurl --silent --show-error http://{NAME}:{made.port}/"
    )
    assert made.application(script) == "reached"
    made.forward.wait_for_line(r"name-server\.listening: ", where="err")
