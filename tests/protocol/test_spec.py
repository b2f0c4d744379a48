"""SPEC.md says which module is which section."""

from __future__ import annotations

import re
from pathlib import Path

import hybridrelay.protocol

DIRECTORY = Path(hybridrelay.protocol.__file__).parent
#: They belong to no section.
OTHERS = {"__init__.py", "config.py", "errors.py", "events.py", "limits.py"}


def test_every_module_has_a_section() -> None:
    text = (DIRECTORY / "SPEC.md").read_text(encoding="utf-8")
    (paragraph,) = re.findall(r"^The code is in this directory\.(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([a-z_]+\.py)`", paragraph)) == {path.name for path in DIRECTORY.glob("*.py")} - OTHERS
