"""OpenSSH as people use it for this purpose: ``ssh -R`` on one side, ``ssh -L`` on the other, sshd between them."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from ..ports import HOST, free_port
from ..programs import Program, run
from .base import CONNECTOR, RELAY, Deployment, System, program

_SSHD = """\
Port {port}
ListenAddress {host}
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
"""

#: The name by which clients know the server's key. A line with a delay has another port than the server.
_HOST_KEY_ALIAS = "bench"


class Ssh(System):
    """OpenSSH. It decrypts in the middle: sshd sees the plaintext of both hops.

    Args:
        name: the name of the system.
        cipher: the cipher of both hops; None for the one that ssh chooses.
    """

    needs = ("ssh", "sshd", "ssh-keygen")
    remedy = "apt install openssh-server openssh-client"

    def __init__(self, name: str, cipher: str | None = None) -> None:
        self.name = name
        self.description = f"ssh -L into ssh -R through sshd, {cipher or 'as it comes'}; decrypts in the middle"
        self._cipher = cipher

    def start(self, deployment: Deployment) -> None:
        """Create keys, and start a separate sshd and two clients."""
        directory = deployment.directory
        for name in ("host", "user"):
            run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", directory / name])
        (directory / "known_hosts").write_text(f"{_HOST_KEY_ALIAS} {(directory / 'host.pub').read_text()}")
        port = free_port()
        config = directory / "sshd_config"
        config.write_text(_SSHD.format(port=port, host=HOST, directory=directory))
        if os.geteuid() == 0:  # for sshd's privilege separation; the system's own service creates it at its start
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        # sshd executes itself again for every connection, and so requires an absolute path.
        sshd = deployment.start(RELAY, [program("sshd"), "-D", "-e", "-f", config])
        sshd.wait_for_line("Server listening")
        far, deployment.entry = free_port(), free_port()
        forward = f"{HOST}:{far}:{HOST}:{deployment.server.port}"
        connector = deployment.start(CONNECTOR, self._client(directory, port, "-R", forward))
        _wait_until_connected(connector)
        forward = f"{HOST}:{deployment.entry}:{HOST}:{far}"
        near = deployment.across(port)
        _wait_until_connected(deployment.start_client(self._client(directory, near, "-L", forward)))

    def _client(self, directory: Path, port: int, *forward: str) -> list[str | Path]:
        options = {
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(directory / "known_hosts"),
            "HostKeyAlias": _HOST_KEY_ALIAS,
            "IdentitiesOnly": "yes",
        }
        if self._cipher is not None:
            options["Ciphers"] = self._cipher
        settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        login: list[str | Path] = ["-i", directory / "user", "-p", str(port), f"{getpass.getuser()}@{HOST}"]
        return [program("ssh"), "-F", "none", "-N", "-v", *settings, *forward, *login]


def _wait_until_connected(ssh: Program) -> None:
    ssh.wait_for_line("Entering interactive session")


#: ssh as it comes, which chooses chacha20-poly1305 unless it is configured otherwise.
SSH = Ssh("ssh")
#: ssh with the fastest of its ciphers on a processor that has instructions for AES.
SSH_AES128 = Ssh("ssh-aes128", "aes128-gcm@openssh.com")
