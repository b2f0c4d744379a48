"""Every failure becomes a line for people or for programs, and an exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from hybridrelay.cli import exits, main
from hybridrelay.cli.commands import probe
from hybridrelay.errors import ConfigurationError, DeniedByPolicy, RelayUnreachable, StateError
from hybridrelay.protocol.reasons import Reason

from ..deployments import HYBRIDRELAY
from .conftest import Created, Run

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I="


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run_probe(args: object) -> int:
        raise error

    monkeypatch.setattr(probe, "run", run_probe)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigurationError("a", remedy="b"), 2, "hybridrelay: error: a\n  try: b\n"),
        (RelayUnreachable("a"), 1, "hybridrelay: error: a\n"),
        (RelayUnreachable("a\x1b[2J\nb"), 1, "hybridrelay: error: a [2J b\n"),
        (OSError(errno.ENOSPC, "No space left", "f"), 1, "hybridrelay: error: No space left: f\n"),
        (
            ExceptionGroup("", [RelayUnreachable("a"), ExceptionGroup("", [ConfigurationError("b")])]),
            2,
            "hybridrelay: error: a\nhybridrelay: error: b\n",
        ),
    ],
)
def test_errors_are_lines(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, says: str) -> None:
    _failing(monkeypatch, error)
    result = run("probe")

    assert (result.code, result.out, result.err) == (code, "", says)


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([ConfigurationError("a")], 1),
        ([StateError("a"), ConfigurationError("b")], 1),
        ([RelayUnreachable("a")], 1),
        ([ConfigurationError("a"), DeniedByPolicy("b")], 3),
        ([ConfigurationError("a"), KeyError("b")], 70),
    ],
)
def test_a_program_that_was_ready_does_not_end_with_the_code_for_its_configuration(
    run: Run, monkeypatch: pytest.MonkeyPatch, errors: list[Exception], code: int
) -> None:
    """After that code, systemd would not start it again."""
    error = exits.EndedWhileServing()
    error.__cause__ = errors[0] if len(errors) == 1 else ExceptionGroup("", errors)
    _failing(monkeypatch, error)
    result = run("probe")
    assert (result.code, result.out) == (code, "")
    assert "hybridrelay: error: a\n" in result.err


def test_a_shortage_behind_an_error_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ConfigurationError("relay.lock cannot be opened", remedy="run as the user who owns the directory")
    error.__cause__ = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    _failing(monkeypatch, error)
    result = run("probe")

    assert result.code == 2
    message, remedy = result.err.splitlines()
    assert message == (
        "hybridrelay: error: relay.lock cannot be opened (this machine has run out of file descriptors)"
    )
    assert "ulimit -n" in remedy


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("descriptors", range(7, 18, 2))
def test_too_few_descriptors_are_never_reported_as_something_else(
    created: Created, tmp_path: Path, descriptors: int
) -> None:
    command = [
        *HYBRIDRELAY,
        "relay",
        "--state",
        created.state,
        "--host",
        "127.0.0.1",
        "--ports",
        "probe=0,control=0,data=0,http=0,https=0",
    ]
    limited = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *map(str, command)]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode in (1, 2), done.stderr
    assert "file descriptors" in done.stderr
    assert "disk" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "  try: raise the limit of open files: ulimit -n, LimitNOFILE= in the service's unit"
    )


def test_a_bug_shows_neither_its_text_nor_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, ValueError(KEY))
    result = run("probe")

    assert result.code == 70
    assert result.err.startswith("hybridrelay: error: internal error: ValueError at test_reporting.py:")
    assert "--log-level debug" in result.err
    assert "Traceback" not in result.err
    assert KEY not in result.err


@pytest.mark.parametrize("how", ["alone", "in a group", "inside Trio"])
def test_a_program_without_memory_does_not_ask_to_report_a_bug(
    run: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    failure: Exception = MemoryError()
    if how == "in a group":
        failure = ExceptionGroup("", [ExceptionGroup("", [MemoryError()])])
    elif how == "inside Trio":
        failure = trio.TrioInternalError()
        failure.__cause__ = MemoryError()
    _failing(monkeypatch, failure)
    result = run("probe")

    assert result.code == 1
    message, remedy = result.err.splitlines()
    assert message == "hybridrelay: error: this machine has no memory left for this program"
    assert "ulimit -v" in remedy


def test_a_bug_at_the_level_debug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, ValueError("why"))
    result = run("probe", "--log-level", "debug")

    assert result.code == 70
    assert "Traceback" in result.err
    assert "ValueError: why" in result.err


def test_errors_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, RelayUnreachable("a", reason=Reason.BUSY, remedy="b"))
    result = run("--log-json", "probe")

    assert result.code == 1
    (entry,) = map(json.loads, result.err.splitlines())
    assert entry["level"] == "error"
    assert entry["message"] == "a"
    assert entry["fields"] == {"reason": "busy", "remedy": "b"}


def test_an_error_without_a_reason_has_none_in_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert on internal-error is for bugs."""
    _failing(monkeypatch, ConfigurationError("a"))
    assert "reason" not in json.loads(run("--log-json", "probe").err)["fields"]

    _failing(monkeypatch, RelayUnreachable("a"))
    assert json.loads(run("--log-json", "probe").err)["fields"]["reason"] == "relay-unreachable"

    _failing(monkeypatch, ValueError("a bug"))
    assert json.loads(run("--log-json", "probe").err)["fields"]["reason"] == "internal-error"


@pytest.mark.parametrize("arguments", [("forward", "--listen", "15"), ("forward", "--port", "1"), ("frward",)])
def test_wrong_arguments_as_json(run: Run, arguments: tuple[str, ...]) -> None:
    result = run("--log-json", *arguments)

    assert result.code == 2
    (entry,) = map(json.loads, result.err.splitlines())
    assert entry["level"] == "error"
    assert entry["fields"]["remedy"].endswith("--help")


def test_an_interrupt_where_nothing_runs_for_long(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, KeyboardInterrupt())
    result = run("probe")

    assert (result.code, result.err) == (128 + signal.SIGINT, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/full there")
def test_a_reader_that_goes_away(created: Created) -> None:
    """``hybridrelay ... | head -0``: silence, and no error of the interpreter behind it."""
    for arguments in (["--help"], ["connections", "list", "--state", str(created.state)]):
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb") as closed_pipe:
            done = subprocess.run(
                [sys.executable, "-m", "hybridrelay", *arguments],
                check=False,
                stdout=closed_pipe,
                stderr=subprocess.PIPE,
                timeout=60,
            )

        assert (done.returncode, done.stderr) == (0, b"")


def test_the_exit_code_of_argparse_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["--nonsense"]) == 2
    capsys.readouterr()
