"""An application that `run` starts is the command: its exit code, signals, terminal; and nothing is left of it."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import attrs
import pytest

from ..applications import (
    NETWORKS,
    Runner,
    as_ordinary_user,
    children_of,
    require_network,
    runner_for,
    skip_unless_linux,
)
from ..deployments import Deployment, skip_unless_ci
from ..waiting import TimeLimit, patience, wait_until

skip_unless_linux()

#: Sends a line to the target, and prints the answer.
ECHO = "exec 3<>/dev/tcp/echo.corp.example/7; echo hello >&3; head -n 1 <&3"
#: Starts a program in a session of its own. Its parent ends at once.
LEAVE_A_PROGRAM = "(setsid sleep 1000 </dev/null >/dev/null 2>&1 &)"
#: How many kills, each later than the one before, there are about in the time that a run takes.
KILLS = 12


@attrs.define
class Target:
    """An echo service, which counts what it gets, and does not send zeros back."""

    port: int
    received: int = 0
    ended: threading.Event = attrs.field(factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    self.received += len(data)
                    sock.sendall(data.strip(b"\0"))
            except ConnectionError:
                return
            self.ended.set()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Target(listener.getsockname()[1])
        thread = threading.Thread(target=found.serve, args=(listener,), daemon=True)
        thread.start()
        yield found
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(scope="module")
def shared(target: Target) -> Iterator[Runner]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        deployment = stack.enter_context(Deployment(directory))
        deployment.start_relay()
        published = deployment.create("echo", ("127.0.0.1", target.port))
        deployment.start_connector(published)
        done = deployment.run(
            "connections",
            "set-local-name",
            "echo",
            "--local-name",
            "echo.corp.example:7",
            "--update",
            published.application,
        )
        assert done.returncode == 0, done.stderr
        yield stack.enter_context(runner_for(published))


@pytest.fixture
def runner(shared: Runner) -> Runner:
    """One for each test, so that a test sees only its own processes."""
    return Runner(shared.directory, shared.file)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return require_network(request.param)


# --- what the application sees


def test_the_target_has_its_name_and_port(runner: Runner, network: str) -> None:
    """A port below 1024, for which `host` needs redirection."""
    done = runner.run("--network", network, "--", "bash", "-c", ECHO)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize("name", ["echo2.corp.example:7777", "10.20.30.40:7", "10.20.30.40:7777"])
def test_another_name_can_be_given(runner: Runner, network: str, name: str) -> None:
    host, _, port = name.partition(":")
    script = ECHO.replace("echo.corp.example/7", f"{host}/{port}")
    done = runner.run("--network", network, "--as", name, "--", "bash", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize("network", ["host", "private"])
def test_a_name_may_have_many_ports(runner: Runner, network: str) -> None:
    """More than can be passed from one process to another in one message. The connector's target has one port only,
    so connections to the others are reset, which may happen before the call of connect(2) returns."""
    name = "many.corp.example"
    connect = f"said=$( (exec 3<>/dev/tcp/{name}/$port) 2>&1 )"
    is_open = 'case $said in ""|*"reset by peer"*) echo open;; *) echo "$said";; esac'
    script = f"for port in 100 511 600; do {connect}; {is_open}; done"
    done = runner.run("--network", require_network(network), "--as", f"{name}:100-611", "--", "bash", "-c", script)
    assert (done.returncode, done.stdout) == (0, "open\nopen\nopen\n"), done.stderr


def test_nothing_has_to_be_said(runner: Runner) -> None:
    done = runner.run("--", "bash", "-c", ECHO)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_a_port_that_is_in_use_leads_to_the_next_way(runner: Runner) -> None:
    """A server at all addresses of the machine has the port, so `host` cannot open a listener for it."""
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        options = ("--as", f"taken.corp.example:{port}", "--", "bash", "-c")
        talk = ECHO.replace("echo.corp.example/7", f"taken.corp.example/{port}")
        done = runner.run("--network", "host", *options, talk)
        assert done.returncode == 125
        assert "Address already in use" in done.stderr
        done = runner.run(*options, talk)
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_in_a_user_namespace_that_has_no_network_of_its_own(runner: Runner, tmp_path: Path) -> None:
    """Root has all capabilities in it, but may not open the lower ports of the machine. `run --check` knows that."""
    user = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--"] if os.geteuid() == 0 else []
    ours = Runner(tmp_path, Path(shutil.copy(runner.file, tmp_path)))
    ours.temporary.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ours.command(*arguments)[len(as_ordinary_user()) :]
        return subprocess.run(
            [*user, "unshare", "--user", "--map-root-user", "--", *command],
            check=False, capture_output=True, text=True, env=ours.environment, cwd=ours.directory,
        )  # fmt: skip

    checked = run("--check", "--json")
    if "unshare" in checked.stderr:
        skip_unless_ci(checked.stderr)
    found = json.loads(checked.stdout)
    assert found["firstPort"] == int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    usable = [("--network", one["network"]) for one in found["networks"] if one["usable"]]
    assert usable
    for options in ((), *usable):
        done = run(*options, "--", "bash", "-c", ECHO)
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", ""), options


def test_a_configuration_file_gives_several_names(runner: Runner, network: str) -> None:
    file = runner.directory / f"run-{network}.toml"
    file.write_text(
        f'network = "{network}"\n[[connection]]\nfile = "{runner.file}"\nas = ["one.example:4001", "10.1.2.3:4002"]\n'
    )
    scripts = [ECHO.replace("echo.corp.example/7", where) for where in ("one.example/4001", "10.1.2.3/4002")]
    done = runner.run("--config", file, "--", "bash", "-c", "; ".join(scripts))
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\nhello\n", "")


def test_a_changed_configuration_file_is_used_as_far_as_possible(runner: Runner) -> None:
    """Where the status is served can change. What the application sees cannot; then nothing in the file is used."""
    file, second = runner.directory / "changing.toml", runner.directory / "second.application"
    shutil.copy2(runner.file, second)
    os.chown(second, runner.file.stat().st_uid, runner.file.stat().st_gid)
    before, after = runner.temporary / "before.sock", runner.temporary / "after.sock"
    table = f'[[connection]]\nfile = "{runner.file}"\n'
    file.write_text(f'status = "{before}"\n{table}')
    with runner.start("--config", file, "--", "cat") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        wait_until(before.exists, seconds=20, what="the status is not served")
        file.write_text(f'status = "{after}"\nnetwork = "private"\n{table}')
        assert re.search(r"restart\.needed.*network", process.stderr.readline())
        wait_until(
            lambda: after.exists() and not before.exists(), seconds=20, what="the status is not served elsewhere"
        )
        file.write_text(f'status = "{before}"\n{table}[[connection]]\nfile = "{second}"\nas = "second.example:7"\n')
        assert re.search(r"reload\.failed.*echo is new", process.stderr.readline())
        assert after.exists()
        assert not before.exists()
        process.stdin.close()
        assert process.wait(patience(20)) == 0


def test_a_private_network_has_nothing_else(runner: Runner) -> None:
    script = "ls /sys/class/net; (exec 3<>/dev/tcp/192.0.2.1/80) 2>&1; getent hosts other.example || echo none"
    done = runner.run("--network", "private", "--", "bash", "-c", script)
    assert "Connection refused" in done.stdout
    assert done.stdout.endswith("none\n")


def test_the_application_has_no_privileges(runner: Runner, network: str) -> None:
    script = "id -u; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status"
    done = runner.run("--network", network, "--", "sh", "-c", script)
    user, *lines = done.stdout.split("\n")
    if user == "0":
        pytest.skip("the ordinary user is root, which has all capabilities over its own namespaces")
    assert lines == ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", ""]


def test_the_secret_of_the_client_is_not_passed_on(runner: Runner, network: str) -> None:
    command = [one for one in runner.command("--network", network, "--", "env") if one != "--connection-string-file"]
    command.remove(str(runner.file))
    environment = {**runner.environment, "HYBRIDRELAY_CONNECTION_STRING": runner.file.read_text(), "OTHER": "stays"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=runner.directory)
    assert done.returncode == 0, done.stderr
    assert "OTHER=stays" in done.stdout
    assert "SharedAccessKey" not in done.stdout


def test_nobody_else_can_connect(runner: Runner) -> None:
    """When connections are redirected, the listener is in the network of the machine, and resets strangers."""
    with runner.start("--network", "intercept", "--", "bash", "-c", f"{ECHO}; read") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        client = runner.only_child_of(process.pid)
        ports = listening_ports(client)
        assert ports
        for address in ports:
            # The reset may arrive as soon as the connection is there.
            with pytest.raises(ConnectionResetError), socket.create_connection(address, timeout=patience(10)) as sock:
                sock.recv(1)


def listening_ports(process: int) -> list[tuple[str, int]]:
    """The TCP sockets over IPv4 at which a process listens."""
    inodes = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        inodes.update(re.findall(r"^socket:\[(\d+)\]$", os.readlink(descriptor)))
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            host, port = fields[1].split(":")
            found.append((socket.inet_ntoa(struct.pack("<I", int(host, 16))), int(port, 16)))
    return found


# --- it is the command


def test_the_exit_code_is_that_of_the_application(runner: Runner, network: str) -> None:
    assert runner.run("--network", network, "--", "sh", "-c", "exit 200").returncode == 200


def test_it_ends_by_the_signal_that_has_ended_the_application(runner: Runner, network: str) -> None:
    done = runner.run("--network", network, "--", "sh", "-c", "kill -TERM $$")
    assert done.returncode == -signal.SIGTERM


def test_an_application_that_cannot_be_executed(runner: Runner, network: str) -> None:
    file = runner.directory / "without-permission"
    file.write_text("true\n")
    executable = "give a file that this user may execute (chmod +x), or the interpreter of a script: "
    for name, code, text, remedy in (
        ("no-such-program", 127, "there is no such program", "give the application after --: "),
        ("/tmp", 126, "Permission denied", executable),
        (str(file), 126, "Permission denied", executable),
    ):
        done = runner.run("--network", network, "--", name)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(f"hybridrelay: error: cannot run {name}: {text}\n  try: {remedy}")
    runner.wait_until_gone()


def test_directories_of_the_path_that_cannot_be_entered_have_no_programs(runner: Runner) -> None:
    """The exit code is 127, as in a shell; or 126, if another directory has the file and it is not executable."""
    closed, opened = runner.directory / "closed", runner.directory / "opened"
    for directory in (closed, opened):
        directory.mkdir()
    (opened / "no-program").write_text("")
    closed.chmod(0)
    environment = {**runner.environment, "PATH": f"{closed}:{opened}:{os.environ['PATH']}"}
    for name, code in (("no-such-program", 127), ("no-program", 126)):
        command = runner.command("--", name)
        done = subprocess.run(command, check=False, capture_output=True, env=environment, cwd=runner.directory)
        assert done.returncode == code, done.stderr


def test_a_script_without_a_first_line_is_run_by_a_shell(runner: Runner) -> None:
    script = runner.directory / "script"
    script.write_text("echo $1 $2\n")
    script.chmod(0o755)
    assert runner.run("--", script, "a", "--b").stdout == "a --b\n"


def test_failures_before_the_application_runs(runner: Runner) -> None:
    done = runner.run("--as", "localhost:80", "--", "true")
    assert done.returncode == 125
    assert "localhost" in done.stderr
    done = Runner(runner.directory, Path("/nonexistent")).run("--", "true")
    assert done.returncode == 125
    assert "cannot read the connection string" in done.stderr
    done = runner.run("--connection-string-file", runner.file, "--", "true")
    assert done.returncode == 125
    assert "two hybrid connections have the name echo.corp.example:7" in done.stderr


def test_datagrams_are_for_forward(runner: Runner) -> None:
    file = runner.directory / "datagrams"
    file.write_text(runner.file.read_text().strip() + ";Protocols=udp\n")
    done = Runner(runner.directory, file).run("--", "true")
    assert done.returncode == 125
    assert "echo is for datagrams only" in done.stderr


def test_a_policy_may_forbid_it(runner: Runner) -> None:
    """When the application is started, and while it runs. Where `forward` may listen does not matter."""
    policies = runner.directory / "policies"
    policies.mkdir()
    file = policies / "policy.toml"
    file.write_text("AllowRun = false\n")
    done = runner.run("--policy-dir", policies, "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert re.search(r"denied by policy.*AllowRun = false", done.stderr, re.DOTALL)
    file.write_text('AllowedForwardAddresses = ["127.0.0.1:5432"]\n')
    talk = "exec 3<>/dev/tcp/echo.corp.example/7; echo hello >&3; head -n 1 <&3; cat <&3; echo ended"
    with runner.start("--policy-dir", policies, "--", "bash", "-c", talk) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        file.write_text("AllowRun = false\n")
        assert process.stdout.readline() == "ended\n"
        assert process.wait(patience(20)) == 0


def test_standard_streams_are_the_applications(runner: Runner, network: str) -> None:
    assert runner.run("--network", network, "--", "cat", text_in="data\n").stdout == "data\n"
    with runner.start("--network", network, "--", "sh", "-c", "exec >&-; read line; exit 3") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.read() == ""  # the end, although it still runs
        assert process.poll() is None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.wait(patience(20)) == 3


def test_no_descriptor_of_ours_is_passed_on(runner: Runner, network: str) -> None:
    done = runner.run(
        "--network", network, "--", "python3", "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"
    )
    assert done.stdout == "['0', '1', '2', '3']\n"  # the last one is that of the directory


def test_signals_are_passed_on(runner: Runner, network: str) -> None:
    script = "trap 'echo one' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do read -t 0.1; done"
    with runner.start("--network", network, "--", "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number, text in ((signal.SIGUSR1, "one\n"), (signal.SIGTERM, "term\n")):
            process.send_signal(number)
            assert process.stdout.readline() == text
        assert process.wait(patience(20)) == 9
    runner.wait_until_gone()


def test_signals_have_their_default_meaning(runner: Runner, network: str) -> None:
    """Python ignores SIGPIPE, for example, which a program does not expect."""
    command = ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]
    direct = subprocess.run(command, check=True, capture_output=True, text=True)
    assert runner.run("--network", network, "--", *command).stdout == direct.stdout


def test_the_exit_code_is_known_although_sigchld_was_ignored(runner: Runner, network: str) -> None:
    script = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, *runner.command("--network", network, "--", "sh", "-c", "exit 7")]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=runner.environment, cwd=runner.directory
    )
    assert (done.returncode, done.stderr) == (7, "")


def test_what_the_application_has_sent_last_arrives(runner: Runner, network: str, target: Target) -> None:
    """It ends at once, with megabytes on their way."""
    target.received = 0
    target.ended.clear()
    script = "exec 3<>/dev/tcp/echo.corp.example/7; head -c 3000000 /dev/zero >&3"
    assert runner.run("--network", network, "--", "bash", "-c", script).returncode == 0
    assert target.ended.wait(patience(20))
    assert target.received == 3_000_000


# --- the terminal


class Terminal:
    """A terminal in which a shell with job control runs."""

    def __init__(self, runner: Runner) -> None:
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            try:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)  # even if the tests run below nohup
                os.chdir(runner.directory)
                os.execvpe(
                    "bash",
                    ["bash", "--norc", "--noediting", "-i"],
                    {**runner.environment, "PS1": "$ ", "TERM": "dumb"},
                )
            finally:
                os._exit(1)
        self._text = ""
        self._is_closed = False

    def send(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def wait_for(self, pattern: str) -> None:
        """Read until there is a match; what comes before it is not looked at again."""
        limit = TimeLimit(30)
        while (found := re.search(pattern, self._text)) is None:
            assert limit.remaining > 0, f"no {pattern!r} in {self._text!r}"
            if select.select([self._descriptor], [], [], 1)[0]:
                self._text += os.read(self._descriptor, 65536).decode(errors="replace").replace("\r", "")
        self._text = self._text[found.end() :]

    def close(self) -> None:
        """As when its window is closed. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._descriptor)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


@pytest.fixture
def terminal(runner: Runner) -> Iterator[Terminal]:
    found = Terminal(runner)
    try:
        yield found
    finally:
        found.close()


def test_the_shell_stops_and_continues_the_application(runner: Runner, network: str, terminal: Terminal) -> None:
    script = runner.directory / "job"
    script.write_text("trap 'echo resized' WINCH\necho started\ncat\n")
    terminal.wait_for(r"\$ ")
    terminal.send(" ".join(runner.command("--network", network, "--", "bash", script)) + "\n")
    terminal.wait_for(r"\nstarted\n")
    terminal.send("one\n")
    terminal.wait_for(r"one\none\n")
    terminal.send("\x1a")  # Ctrl-Z
    terminal.wait_for(r"Stopped .*\n\$ ")
    terminal.send("bg\n")
    terminal.wait_for(r"\$ ")
    terminal.send("\n")
    # It reads from the terminal in the background, which stops it again, with another signal.
    wait_until(lambda: is_stopped(runner), seconds=20, what="stopped in the background")
    terminal.send("fg\n")
    terminal.wait_for(r"\n")
    terminal.send("two\n")
    terminal.wait_for(r"two\n(.*\n)*two\n")
    terminal.send("\x03")  # Ctrl-C
    terminal.wait_for(r"\$ ")
    terminal.send("echo code=$?\n")
    terminal.wait_for(r"code=130\n")
    wait_until(lambda: len(runner.processes()) == 1, seconds=20, what="only the shell is left")


def is_stopped(runner: Runner) -> bool:
    """Whether the first process, and the application, are stopped, and the process of the client is not."""
    states = []
    for pid in runner.processes():
        with suppress(OSError):  # it may have ended
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            if "bash" not in name or len(children_of(runner.processes(), pid)) == 0:
                states.append(rest.split()[0])
    return states.count("T") >= 2


def test_the_size_of_the_terminal(runner: Runner, network: str, terminal: Terminal) -> None:
    script = runner.directory / "size"
    script.write_text("trap 'stty size' WINCH\necho started\nwhile :; do read -t 0.1; done\n")
    terminal.wait_for(r"\$ ")
    terminal.send(" ".join(runner.command("--network", network, "--", "bash", script)) + "\n")
    terminal.wait_for(r"\nstarted\n")
    terminal.resize(33, 77)
    terminal.wait_for(r"33 77\n")
    terminal.close()
    runner.wait_until_gone()


# --- nothing is left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_application_runs(runner: Runner, number: signal.Signals) -> None:
    """It ends the command, as it would end the application."""
    with runner.start("--", "sleep", "1000") as process:
        wait_until(lambda: len(runner.processes()) >= 2, seconds=20, what="the process of the client")
        process.send_signal(number)
        # On a busy machine, the application may run by now. It has the signal then, and the exit code says so.
        assert process.wait(patience(20)) in {-number, 128 + number}
        runner.wait_until_gone()


@pytest.mark.parametrize("which", ["first", "client", "application"])
def test_whatever_is_killed_nothing_is_left(runner: Runner, network: str, which: str) -> None:
    before = traces(runner)
    script = f"{ECHO}; exec sleep 1000"
    with runner.start("--network", network, "--", "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        wait_until(lambda: len(runner.processes()) == 3, seconds=20, what="three processes")
        client = runner.only_child_of(process.pid)
        application = runner.only_child_of(client)
        assert traces(runner) == before
        os.kill({"first": process.pid, "client": client, "application": application}[which], signal.SIGKILL)
        assert process.wait(patience(20)) == (125 if which == "client" else -signal.SIGKILL)
        runner.wait_until_gone()
    assert traces(runner) == before


@pytest.mark.parametrize("which", ["first", "client"])
def test_programs_that_the_application_has_started_are_killed_too(runner: Runner, network: str, which: str) -> None:
    script = f"{LEAVE_A_PROGRAM}; sleep 1000 & {ECHO}; exec sleep 1000"
    with runner.start("--network", network, "--", "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        wait_until(lambda: len(runner.processes()) == 5, seconds=20, what="five processes")
        client = runner.only_child_of(process.pid)
        os.kill({"first": process.pid, "client": client}[which], signal.SIGKILL)
        assert process.wait(patience(20)) == (125 if which == "client" else -signal.SIGKILL)
        runner.wait_until_gone()


def test_a_stopped_client_does_not_keep_them(runner: Runner) -> None:
    script = f"{LEAVE_A_PROGRAM}; {ECHO}; exec sleep 1000"
    with runner.start("--", "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        client = runner.only_child_of(process.pid)
        os.kill(client, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        runner.wait_until_gone()


def test_programs_stay_when_the_application_ends(runner: Runner, network: str) -> None:
    """As without `run`, even if the application was killed."""
    for end in ("exit 3", "kill -9 $$"):
        runner.run("--network", network, "--grace", "0", "--", "bash", "-c", f"{LEAVE_A_PROGRAM}; {end}")
        # It is not among the processes at the moment at which it executes another program, so they are read once.
        left = wait_until(lambda: found if len(found := [*runner.processes()]) == 1 else None,
                          seconds=20, what="the program that was left")  # fmt: skip
        os.kill(left[0], signal.SIGKILL)
        runner.wait_until_gone()


def test_children_that_the_command_had_before_are_not_its_own(runner: Runner) -> None:
    """As of a script that starts a program, and executes the command in its own place."""
    script = 'sleep 1000 & exec "$@"'
    command = ["bash", "-c", script, "bash", *runner.command("--", "bash", "-c", f"{ECHO}; exec sleep 1000")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=runner.environment,
        cwd=runner.directory,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        found: list[int] = []

        def both_run() -> bool:
            found[:] = sorted(children_of(runner.processes(), process.pid), key=lambda one: "python" in name_of(one))
            return len(found) == 2

        wait_until(both_run, seconds=20, what="the client, and the program from before")
        earlier, client = found
        os.kill(client, signal.SIGKILL)
        assert process.wait(patience(20)) == 125
        wait_until(lambda: list(runner.processes()) == [earlier], seconds=20, what="only that program is left")
        os.kill(earlier, signal.SIGKILL)
    runner.wait_until_gone()


def test_programs_whose_parents_have_ended_are_reaped(runner: Runner, network: str) -> None:
    script = f"for number in 1 2 3 4 5; do (true &); done; {ECHO}; exec sleep 1000"
    with runner.start("--network", network, "--", "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        client = runner.only_child_of(process.pid)
        application = runner.only_child_of(client)
        wait_until(lambda: every_child_of(client) == [application], seconds=20, what="only the application is left")
        assert every_child_of(process.pid) == [client]


def every_child_of(parent: int) -> list[int]:
    """The children of a process, including those that have ended and were not reaped."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(file.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(file.parent.name))
    return found


def name_of(process: int) -> str:
    return Path(os.readlink(f"/proc/{process}/exe")).name


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("which", ["first", "client", "last"])
def test_kills_at_every_moment(runner: Runner, network: str, which: str) -> None:
    """The first process, the client's, or the last one that there is, later and later, until the application has
    ended before. While it runs, it has started another program, unless that could be the one that is killed."""
    require_network(network)
    before = traces(runner)
    script = ECHO if which == "last" else f"setsid sleep 1000 & {ECHO}; kill -9 $!"
    begun = time.monotonic()
    assert runner.run("--network", network, "--", "bash", "-c", script).returncode == 0
    step = (time.monotonic() - begun) / KILLS
    for number in itertools.count():
        with runner.start("--network", network, "--", "bash", "-c", script) as process:
            try:
                process.wait(number * step)
            except subprocess.TimeoutExpired:
                processes = runner.processes()
                victim = {
                    "first": process.pid,
                    "client": next(iter(children_of(processes, process.pid)), process.pid),
                    "last": max(processes, default=process.pid),
                }[which]
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            process.wait(patience(20))
            runner.wait_until_gone()
            if process.returncode == 0:
                break
        assert number < 2000
    assert traces(runner) == before


def traces(runner: Runner) -> tuple[object, ...]:
    """What a process could leave on the machine: mounts, and temporary files.

    Other tests, which run at the same time, mount network namespaces, and file systems in their own directories.
    """
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    mounts = [place for place in places if not place.startswith("/run/netns") and "/pytest-of-" not in place]
    return mounts, sorted(runner.temporary.iterdir())
