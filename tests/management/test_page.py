"""The table of operations in `docs/management.md` has every operation, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from hybridrelay.management.handlers import OPERATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "management.md").read_text(encoding="utf-8")
CONNECTION = "/v1/hybridConnections/{name}"


def test_the_table_is_complete() -> None:
    found = re.search(r"^\| method \| path \| does \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found is not None
    documented = {
        (method, re.sub(r"^\.\.\.", CONNECTION, path))
        for methods, paths in re.findall(r"^\| ([A-Z, ]+) \| (.*?) \|", found[1], re.MULTILINE)
        for path in re.findall(r"`([^`]+)`", paths)
        for method in methods.split(", ")
    }
    assert documented == {(one.method, one.path) for one in OPERATIONS}
