"""Channels through a real ssh and sshd: only ssh's port of the relay's host is reached.

The sshd is private: a free port of loopback, its own host key, its own authorized keys, this user.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from ..deployments import HYBRIDRELAY, Deployment, Program, free_port, skip_unless_ci, wait_for_port
from ..waiting import wait_until
from .talking import SHORT_PAUSE_SECONDS, Talker
from .targets import exchange, random_pieces, receive_hash, serve

SIZE = 3_000_000
_RUN_SSHD = Path("/run/sshd")
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""


@attrs.frozen
class Ssh:
    """A private sshd whose one key can run nothing but relay-stdio, and the command that uses it."""

    sshd: Program
    command: str
    directory: Path

    def clients(self) -> list[int]:
        """The process ids of the ssh clients that run."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                arguments = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if process.name.isdigit() and arguments.startswith(b"ssh\0") and os.fsencode(self.directory) in arguments:
                found.append(int(process.name))
        return found


@pytest.fixture
def ssh(deployment: Deployment, tmp_path: Path) -> Iterator[Ssh]:
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None or shutil.which("ssh") is None:
        skip_unless_ci("needs ssh and sshd")
    directory = tmp_path / "ssh"
    directory.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    # What the key runs, whatever the client asks for. PYTHONPATH: where this test found the package, if it is set.
    environment = [f"PYTHONPATH={path}" for path in [os.environ.get("PYTHONPATH", "")] if path]
    forced = shlex.join(["env", *environment, *HYBRIDRELAY, "relay-stdio", "--state", str(deployment.state)])
    forced = forced.replace('"', '\\"')
    key = (directory / "user.pub").read_text()
    (directory / "authorized_keys").write_text(f'restrict,command="{forced}" {key}')
    port = free_port()
    (directory / "config").write_text(_CONFIG.format(port=port, directory=directory))
    made = False
    if os.geteuid() == 0 and not _RUN_SSHD.exists():
        # To where sshd drops its privileges. The system's own service makes it, too.
        _RUN_SSHD.mkdir(mode=0o755)
        made = True
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": os.devnull,
        "IdentitiesOnly": "yes",
        "LogLevel": "ERROR",
    }
    settings = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    login = ["-i", str(directory / "user"), "-p", str(port), f"{getpass.getuser()}@127.0.0.1"]
    command = shlex.join(["ssh", "-F", "none", *settings, *login, "hybridrelay", "relay-stdio"])
    try:
        with Program([sshd, "-D", "-e", "-f", directory / "config"], name="sshd") as program:
            wait_for_port(port, program)
            try:
                yield Ssh(program, command, directory)
            finally:
                # First the programs that use it: processes of its sessions would keep its standard error open.
                for user in reversed(deployment.programs[1:]):
                    user.close()
    finally:
        if made:
            _RUN_SSHD.rmdir()


async def test_streams_through_ssh(deployment: Deployment, ssh: Ssh, nursery: trio.Nursery) -> None:
    """Both sides use it. Ends of file are passed on, and no process of ours or of ssh is left."""

    async def target(stream: trio.SocketStream) -> None:
        _, digest = await receive_hash(stream)
        await stream.send_all(digest * (SIZE // len(digest)))
        await stream.send_eof()

    published = deployment.create("through-ssh", await serve(nursery, target))
    arguments = ("--mode", "exec", "--exec-command", ssh.command)
    connector = deployment.start_connector(published, arguments=arguments)
    forward = deployment.start_forward(published, mode="exec", arguments=arguments[2:])
    request = b"".join(random_pieces(SIZE))
    digest = hashlib.sha256(request).digest()
    assert await exchange(forward.port, request) == digest * (SIZE // len(digest))
    # Those of the probes end meanwhile.
    wait_until(lambda: len(ssh.clients()) == 4, seconds=30, what="one control and one data channel of each side")
    for program in (forward.program, connector):
        program.close()
    wait_until(lambda: not ssh.clients(), seconds=20, what="the end of every ssh")
    nursery.cancel_scope.cancel()


async def test_a_killed_ssh_costs_a_pause_and_no_stream(
    deployment: Deployment, ssh: Ssh, nursery: trio.Nursery
) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()

    published = deployment.create("killed", await serve(nursery, echo))
    arguments = ("--mode", "exec", "--exec-command", ssh.command)
    deployment.start_connector(published)
    forward = deployment.start_forward(published, mode="exec", arguments=arguments[2:])
    talker = Talker(forward.port, SHORT_PAUSE_SECONDS)
    async with trio.open_nursery() as talking:
        talking.start_soon(talker.run)
        with trio.fail_after(60):
            await talker.more_than(10_000)
            clients = ssh.clients()
            await talker.sends()
            for pid in clients:
                os.kill(pid, 9)
            await talker.more_than(talker.received + 100_000)
        talker.stop()
    nursery.cancel_scope.cancel()


async def test_probe_through_ssh(deployment: Deployment, ssh: Ssh) -> None:
    published = deployment.create("probed", ("127.0.0.1", 9))
    arguments = ("--json", "--mode", "exec", "--connection-string-file", published.application)
    done = deployment.run("probe", *arguments, "--exec-command", ssh.command)
    assert done.returncode == 0, done.stderr + ssh.sshd.err
    assert json.loads(done.stdout)["chosen"] == "exec"

    done = deployment.run("probe", *arguments, "--exec-command", "echo something else")
    assert done.returncode == 1
    (attempt, *_) = json.loads(done.stdout)["attempts"]
    assert "something else" in attempt["explanation"]
    assert "relay-stdio" in attempt["remedy"]


def test_a_command_belongs_to_its_mode(deployment: Deployment) -> None:
    published = deployment.create("modes", ("127.0.0.1", 9))
    for wrong in (["--mode", "exec"], ["--exec-command", "true"], ["--mode", "tcp", "--exec-command", "true"]):
        done = deployment.run("probe", "--connection-string-file", published.application, *wrong)
        assert done.returncode == 2, done.stderr
        assert "--mode exec needs --exec-command" in done.stderr


def test_relay_stdio_without_a_relay(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        done = deployment.run("relay-stdio", "--state", tmp_path)
    assert done.stdout == ""
    assert "no connection to the relay" in done.stderr
    assert done.returncode
