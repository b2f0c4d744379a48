"""``--help`` teaches, is quick, and is there for every command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hybridrelay import __version__
from hybridrelay.cli import INTERRUPTED, exits

from .conftest import Run

COMMANDS = [
    ("demo",),
    ("relay",),
    ("connections",),
    *(("connections", name) for name in ("create", "import", "issue", "endpoints", "list", "show", "delete")),
    ("keys",),
    *(("keys", name) for name in ("list", "regenerate", "revoke")),
    ("connector",),
    ("forward",),
    ("probe",),
]


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(run: Run, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run(*command, "--help")

    assert (result.code, result.err) == (0, "")
    assert re.search("\n +hybridrelay ", result.out), "no example"
    assert all(option in result.out for option in ("--version", "--log-level", "--log-json"))
    assert max(map(len, result.out.splitlines())) <= 80


def test_the_exit_codes_are_told_and_documented(run: Run) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| (\d+)(?: \+ N)? \| ", documented.partition("## Exit codes")[2], re.MULTILINE)
    told = re.findall(r"\b(\d+)\b", run("--help").out.partition("exit codes:")[2])

    known = {value for name, value in vars(exits).items() if name.isupper()}
    assert {int(code) for code in rows} == known
    assert {int(code) for code in told} == known | {INTERRUPTED}


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_every_command_tells_its_version(run: Run, command: tuple[str, ...]) -> None:
    assert run(*command, "--version").out == f"hybridrelay {__version__}\n"


@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_where_connection_strings_come_from_is_said(run: Run, command: str) -> None:
    out = run(command, "--help").out

    assert "HYBRIDRELAY_CONNECTION_STRING" in out
    assert "standard input (-)" in " ".join(out.split())


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from hybridrelay.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stdout.splitlines()[-1].split())

    assert not modules & {"trio", "cryptography", "trio_websocket", "attr", "ssl", "hybridrelay.security"}


@pytest.mark.parametrize(
    ("arguments", "says", "command"),
    [
        (("nonsense",), "there is no command 'nonsense'", ""),
        (("conections",), "there is no command 'conections'; did you mean connections?", ""),
        (("keys", "lst"), "there is no command 'lst'; did you mean list?", " keys"),
        (("--nonsense", "relay"), "unknown argument --nonsense", ""),
        (("relay", "--nonsense"), "unknown argument --nonsense", " relay"),
        (("relay", "--stat", "x"), "unknown argument --stat; did you mean --state?", " relay"),
        (("forward", "--lisen=x"), "unknown argument --lisen; did you mean --listen?", " forward"),
        (("connections", "create", "a", "--endpont", "b"), "unknown argument --endpont", " connections create"),
        (("probe", "x"), "unknown argument x", " probe"),
    ],
)
def test_what_is_unknown_points_to_the_help_of_its_command(
    run: Run, arguments: tuple[str, ...], says: str, command: str
) -> None:
    result = run(*arguments)

    assert (result.code, result.out) == (2, "")
    first, second = result.err.splitlines()
    assert first.startswith(f"hybridrelay: error: {says}")
    assert second == f"  try: hybridrelay{command} --help"


@pytest.mark.parametrize("arguments", [(), ("connections",), ("keys",)], ids=" ".join)
def test_without_a_command_the_help_is_printed(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)

    assert (result.code, result.out) == (exits.USAGE, "")
    assert result.err == run(*arguments, "--help").out


def test_the_default_in_the_help_is_the_one_in_force() -> None:
    from hybridrelay.cli.connection_strings import (
        DEFAULT_CLIMB_SECONDS,
        DEFAULT_OPEN_PATIENCE,
        DEFAULT_RESUME_DEADLINE,
    )
    from hybridrelay.client.patience import OPEN_PATIENCE
    from hybridrelay.connectivity.link import CLIMB_FIRST_SECONDS
    from hybridrelay.mux import DATA_CONFIG

    assert DATA_CONFIG.resume_deadline == DEFAULT_RESUME_DEADLINE
    assert CLIMB_FIRST_SECONDS == DEFAULT_CLIMB_SECONDS
    assert OPEN_PATIENCE == DEFAULT_OPEN_PATIENCE
