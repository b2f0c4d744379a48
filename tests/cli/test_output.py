"""Standard output that cannot be written to: closed, or on a full disk. As processes, at every command."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..deployments import PORT_NAMES
from ..waiting import wait_until
from .conftest import Created

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="shells and /dev/full are POSIX")

ANY_PORTS = ",".join(f"{name}=0" for name in PORT_NAMES)
PROGRAM = f"{shlex.quote(sys.executable)} -m hybridrelay"
KEYS = "--rule application --key secondary --state {state}"
COMMANDS = {
    "--version": 0,
    "--help": 0,
    "connections list --state {state}": 0,
    "connections show orders --json --state {state}": 0,
    "connections issue orders --role application --label x --authority-file {authority} --out {out}": 0,
    "keys list orders --state {state}": 0,
    f"keys revoke orders {KEYS}": 0,
    "probe --connection-string-file {application}": 1,
    "connections list --state {state} --nonsense": 2,
    "": 2,
}


def _shell(command: str, redirection: str, created: Created) -> subprocess.CompletedProcess[str]:
    out = created.state.parent / "issued"
    filled = command.format(
        state=created.state, authority=created.authority, application=created.application, out=out
    )
    line = f"exec {PROGRAM} {filled} {redirection}"
    return subprocess.run(["sh", "-c", line], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:2]) or "nothing")
def test_closed_from_the_start(created: Created, command: str) -> None:
    """Nobody wants the output: everything else is as always."""
    local = command.replace("{application}", str(_nowhere(created)))
    for redirection in (">&-", ">&- <&-"):
        done = _shell(local, redirection, created)
        if "issue" in command:
            (created.state.parent / "issued").unlink()

        assert done.returncode == COMMANDS[command], done.stderr
        assert "Traceback" not in done.stderr
        assert COMMANDS[command] == 2 or not done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:2]) or "nothing")
def test_output_that_is_lost_is_reported_and_the_work_is_done(created: Created, command: str) -> None:
    """What was lost is said, and the work is done."""
    done = _shell(command.replace("{application}", str(_nowhere(created))), ">/dev/full", created)

    assert done.returncode == (COMMANDS[command] or 1)
    if COMMANDS[command] != 2:
        assert "error: cannot write to standard output: No space left on device\n" in done.stderr
        assert "  try: free space there" in done.stderr
    assert "issue" not in command or (created.state.parent / "issued").exists()


def _nowhere(created: Created) -> Path:
    """An application's string for a relay that is not there."""
    path = created.application.with_name("nowhere")
    text = created.application.read_text().replace("relay.example.com", "127.0.0.1").strip()
    path.write_text(f"{text};Ports=probe=1,control=1,data=1,http=1,https=1\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">&- <&- 2>&-"])
def test_a_relay_serves_and_ends_gracefully_all_the_same(tmp_path: Path, redirection: str) -> None:
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    state = tmp_path / "state"
    line = f"exec {PROGRAM} relay --state {state} --host 127.0.0.1 --ports {ANY_PORTS} {redirection}"
    relay = subprocess.Popen(["sh", "-c", line], stderr=subprocess.PIPE, text=True)
    assert relay.stderr is not None
    try:
        said = ""
        while "/dev/full" in redirection and "the text was: ready relay " not in said:
            line = relay.stderr.readline()
            assert line, said
            said += line
        wait_until((state / "public-ports").exists, seconds=30, what="a relay that serves")
        relay.send_signal(signal.SIGTERM)
        said += relay.stderr.read()

        assert relay.wait(30) == 0
        assert "Traceback" not in said
    finally:
        relay.kill()
        relay.wait()
        relay.stderr.close()
