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
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
"""


class Ssh(System):
    """OpenSSH with its default ciphers. It decrypts in the middle: sshd sees the plaintext of both hops."""

    name = "ssh"
    description = "ssh -L into ssh -R through sshd; decrypts in the middle"
    needs = ("ssh", "sshd", "ssh-keygen")
    remedy = "apt install openssh-server openssh-client"

    def start(self, deployment: Deployment) -> None:
        """Create keys, and start a separate sshd and two clients."""
        folder = deployment.folder
        for name in ("host", "user"):
            run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
        port = free_port()
        config = folder / "sshd_config"
        config.write_text(_SSHD.format(port=port, host=HOST, folder=folder))
        if os.geteuid() == 0:  # for sshd's privilege separation; the system's own service creates it at its start
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        # sshd executes itself again for every connection, and so requires an absolute path.
        sshd = deployment.start(RELAY, [program("sshd"), "-D", "-e", "-f", config])
        sshd.wait_for_line("Server listening")
        far, deployment.entry = free_port(), free_port()
        forward = f"{HOST}:{far}:{HOST}:{deployment.server.port}"
        connector = deployment.start(CONNECTOR, self._client(folder, port, "-R", forward))
        _wait_until_connected(connector)
        forward = f"{HOST}:{deployment.entry}:{HOST}:{far}"
        near = deployment.across(port)
        _wait_until_connected(deployment.start_client(self._client(folder, near, "-L", forward)))

    @staticmethod
    def _client(folder: Path, port: int, *forward: str) -> list[str | Path]:
        options = {
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": os.devnull,
            "IdentitiesOnly": "yes",
        }
        settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        login: list[str | Path] = ["-i", folder / "user", "-p", str(port), f"{getpass.getuser()}@{HOST}"]
        return [program("ssh"), "-F", "none", "-N", "-v", *settings, *forward, *login]


def _wait_until_connected(ssh: Program) -> None:
    ssh.wait_for_line("Entering interactive session")
