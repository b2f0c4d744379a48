"""``--help`` teaches, is quick, and is there for every command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import pytest

from hybridrelay import __version__
from hybridrelay.cli import INTERRUPTED, exits
from hybridrelay.cli import parser as parser_module
from hybridrelay.cli.command import Command
from hybridrelay.client import ClientConfig

from .conftest import Run


def _paths(commands: Iterable[Command] = parser_module.COMMANDS) -> Iterator[tuple[str, ...]]:
    for command in commands:
        yield (command.name,)
        yield from ((command.name, *path) for path in _paths(command.subcommands))


COMMANDS = list(_paths())


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(run: Run, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run(*command, "--help")

    assert (result.code, result.err) == (0, "")
    assert re.search("\n +(sudo )?hybridrelay ", result.out), "no example"
    assert all(option in result.out for option in ("--version", "--log-level", "--log-json"))
    assert max(map(len, result.out.splitlines())) <= 80


def test_the_exit_codes_are_in_the_help_and_documented(run: Run) -> None:
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
    assert not [name for name in modules if name.startswith("hybridrelay.cli.commands")]


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


def test_the_default_in_the_help_is_the_one_in_force(run: Run) -> None:
    shown = " ".join(run("forward", "--help").out.split())
    in_force = {field.name: field.default for field in attrs.fields(ClientConfig)}

    for option, name in (
        ("--resume-deadline", "resume_deadline"),
        ("--open-patience", "open_patience"),
        ("--upgrade-interval", "upgrade_interval"),
    ):
        of_option = shown[shown.rindex(f"{option} SECONDS") :]
        found = re.search(r"\(default: ([0-9.]+)\)", of_option)
        assert found is not None
        assert found[1] == f"{in_force[name]:g}"


def _commands(commands: Iterable[Command] = parser_module.COMMANDS) -> Iterator[Command]:
    for command in commands:
        yield command
        yield from _commands(command.subcommands)


@pytest.mark.parametrize("command", list(_commands()), ids=lambda command: command.name)
def test_every_command_leads_to_a_function(command: Command) -> None:
    assert bool(command.run) != bool(command.subcommands)
    if command.run:
        assert callable(command.load())


def test_services_are_those_that_run_until_they_are_stopped() -> None:
    assert {command.name for command in _commands() if command.is_service} == {"relay", "connector", "forward"}


def test_only_the_parser_of_the_given_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def watched(command: Command) -> Command:
        return command._replace(add_arguments=lambda _parser: used.append(command.name))

    monkeypatch.setattr(parser_module, "COMMANDS", tuple(map(watched, parser_module.COMMANDS)))
    parser_module.build_parser().parse_args(["status"])
    assert used == ["status"]
