"""Modules are small: a long one says why, and none is very long. CONTRIBUTING.md has the rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for directory in ("hybridrelay", "transports") for path in (ROOT / directory).rglob("*.py"))

#: A module over this gives its reason: a comment below its docstring says why it is long.
LONG = 400
#: A module over this is split.
TOO_LONG = 650


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def gives_a_reason(source: str) -> bool:
    before_code = source.partition("from __future__ ")[0]
    return re.search(r"^# This module is long because ", before_code, re.MULTILINE) is not None


def test_no_module_is_too_long() -> None:
    assert [str(path.relative_to(ROOT)) for path in MODULES if lines_of(path) > TOO_LONG] == []


@pytest.mark.parametrize("path", [path for path in MODULES if lines_of(path) > LONG], ids=lambda path: path.name)
def test_a_long_module_says_why(path: Path) -> None:
    assert gives_a_reason(path.read_text(encoding="utf-8")), "split it, or say below its docstring why it is long"


def test_a_long_module_without_a_reason_is_noticed() -> None:
    reason = "# This module is long because all of them are in it."
    assert gives_a_reason(f'"""Frames."""\n\n{reason}\n\nfrom __future__ import annotations\n')
    assert not gives_a_reason('"""Frames, along with their headers."""\n\nfrom __future__ import annotations\n')
    assert not gives_a_reason(f"from __future__ import annotations\n\n{reason}\n")
