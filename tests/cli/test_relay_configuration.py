"""A relay reads its configuration file again: not while it is being written, and not without a state directory."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from hybridrelay.cli import relay_configuration
from hybridrelay.cli.file_stamps import Stamp, stamp_of
from hybridrelay.cli.option_parts import OptionParts, Part
from hybridrelay.cli.parser import build_parser
from hybridrelay.cli.relay_configuration import RelayConfiguration

FULL = """\
state = "state"
host = "127.0.0.1"
[ports]
probe = 19350
http = 18080
"""


class Reloads:
    """A configuration, and the hosts and ports that reloads have put into use."""

    def __init__(self, path: Path, *arguments: str, look: Callable[[Path], Stamp] = stamp_of) -> None:
        args = build_parser().parse_args(["relay", "--config", str(path), *arguments])
        self.configuration = RelayConfiguration(args, look=look)
        self.used: list[tuple[object, object]] = []
        self._parts = OptionParts(args, [Part(frozenset({"host", "ports"}), self._use)])

    async def _use(self, args: argparse.Namespace) -> None:
        await trio.lowlevel.checkpoint()
        self.used.append((args.host, args.ports))

    async def reload(self) -> tuple[str, ...]:
        """Reload, and return what could not be used."""
        await self.configuration.read_again(self._parts)
        assert self.configuration.last_reload is not None
        return tuple(text for text, _ in self.configuration.last_reload.failures)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text(FULL)
    return path


@pytest.mark.parametrize("text", ["", "# nothing\n", FULL.partition("\n")[2]])
async def test_a_file_without_a_state_directory_is_refused_and_nothing_changes(path: Path, text: str) -> None:
    reloads = Reloads(path)
    path.write_text(text)

    (failure,) = await reloads.reload()

    assert failure.startswith(f"{path} no longer names the state directory")
    assert reloads.used == []
    path.write_text(FULL.replace("18080", "18081"))
    assert await reloads.reload() == ()
    assert reloads.used == [(["127.0.0.1"], {"probe": (None, 19350), "http": (None, 18081)})]


async def test_the_state_directory_may_be_on_the_command_line(path: Path) -> None:
    reloads = Reloads(path, "--state", "elsewhere")
    path.write_text("")

    assert await reloads.reload() == ()
    assert reloads.used == [(None, None)]


async def test_a_port_on_the_command_line_stays_and_the_others_are_those_of_the_file(path: Path) -> None:
    reloads = Reloads(path, "--ports", "http=28080", "--ports", "data=off")
    assert reloads.configuration.args.ports == {"probe": (None, 19350), "http": (None, 28080), "data": None}
    path.write_text(FULL.replace("19350", "19351").replace("18080", "18081"))

    assert await reloads.reload() == ()
    assert reloads.used == [(["127.0.0.1"], {"probe": (None, 19351), "http": (None, 28080), "data": None})]
    path.write_text('state = "state"\n')
    assert await reloads.reload() == ()
    assert reloads.used[1:] == [(None, {"http": (None, 28080), "data": None})]


async def test_a_file_is_read_when_it_is_complete(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_configuration, "POLL_SECONDS", 0)
    new = FULL.replace("18080", "18081")
    unwritten = iter([new[:20], new[:40], new[:60], new])

    def look(path: Path) -> Stamp:
        """Let the writer write some more before each look."""
        text = next(unwritten, new)
        path.write_text(text)
        return (len(text),)

    reloads = Reloads(path, look=look)

    assert await reloads.reload() == ()
    assert reloads.used == [(["127.0.0.1"], {"probe": (None, 19350), "http": (None, 18081)})]


async def test_a_file_that_is_written_without_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_configuration, "POLL_SECONDS", 0)
    stamps = itertools.count()
    reloads = Reloads(path, look=lambda _: (next(stamps),))
    path.write_text(FULL.replace("18080", "18081"))

    assert await reloads.reload() == (f"{path} is still being written",)
    assert reloads.used == []
