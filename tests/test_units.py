"""The systemd units in docs/operating.md are complete, and systemd understands them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hybridrelay.cli.parser import build_parser

_PAGE = Path(__file__).parents[1] / "docs" / "operating.md"
_PROGRAM = "/opt/hybridrelay/bin/hybridrelay"
UNITS = dict(
    re.findall(
        r"^`(hybridrelay-\w+)\.service`[^\n]*\n\n```ini\n(.*?)^```$", _PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
)


def test_there_is_one_for_each_role() -> None:
    assert set(UNITS) == {"hybridrelay-relay", "hybridrelay-connector", "hybridrelay-forward"}


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_complete(name: str) -> None:
    unit = UNITS[name]
    lines = unit.splitlines()

    assert {"[Unit]", "[Service]", "[Install]", "WantedBy=multi-user.target"} <= set(lines)
    assert {"Wants=network-online.target", "After=network-online.target"} <= set(lines)
    assert {"User=hybridrelay", "Restart=always", "RestartPreventExitStatus=2"} <= set(lines)
    (command,) = re.findall(rf"^ExecStart={_PROGRAM} (.*)$", unit, re.MULTILINE)
    args = build_parser().parse_args(shlex.split(command))
    assert args.command == name.removeprefix("hybridrelay-")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say_about_a_unit(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.service"
    path.write_text(UNITS[name].replace(_PROGRAM, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stdout) == (0, "")
    assert name not in done.stderr, done.stderr
