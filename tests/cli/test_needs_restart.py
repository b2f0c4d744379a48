"""docs/operating.md names every option that needs a restart, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hybridrelay.cli.commands import relay
from hybridrelay.cli.config_file import _known_options
from hybridrelay.cli.parser import build_parser
from hybridrelay.cli.serving import configuration

DOCS = Path(__file__).parents[2] / "docs" / "operating.md"
#: The parts that `hybridrelay.cli.option_parts` and the commands make.
AUDIT = {"audit_dir", "audit_keep", "audit_max_bytes", "audit_to", "audit_syslog_ca", "audit_required"}
RELOADED = {
    "relay": relay._OF_RELAY | relay._OF_MANAGEMENT | AUDIT | {"log_level"},
    "connector": configuration._SERVED | AUDIT | {"log_level", "status", "deny_list"},
    "forward": configuration._SERVED | AUDIT | {"log_level", "status"},
    "run": configuration._SERVED | AUDIT | {"log_level", "status"},
}


@pytest.mark.parametrize("program", RELOADED)
def test_the_table_is_complete(program: str) -> None:
    known = _known_options(build_parser().parse_args([program]).parser)
    needs_restart = {name for name, action in known.items() if action.dest not in RELOADED[program]}
    (table,) = re.findall(r"^\| program \| options \| why \|\n((?:\|.*\n)+)", DOCS.read_text(), re.MULTILINE)
    named = set()
    for row in table.splitlines()[1:]:
        _, programs, options, _why, _ = row.split("|")
        if programs.strip() == "all" or program in programs.replace("`", "").replace(",", " ").split():
            named |= set(re.findall(r"`([a-z-]+)`", options))
    assert named == needs_restart
