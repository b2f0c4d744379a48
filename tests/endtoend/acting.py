"""Which modules act: during a block of this process, or while other programs run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

#: By the beginning of their names in docs/architecture.md: where the packages are.
_PACKAGES = {"": "hybridrelay"} | {
    f"transports/hybridrelay_{name}/": f"hybridrelay_{name}" for name in ("exec", "tcp", "websocket")
}
#: A function of fewer lines only answers a question; modules that do no more are not part of a flow.
MIN_LINES = 7


def _directory_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


_DIRECTORIES = {prefix: _directory_of(package) for prefix, package in _PACKAGES.items()}


def module_at(path: Path) -> str | None:
    """The name in docs/architecture.md of the module with this file; None if it is none of the project."""
    for prefix, directory in _DIRECTORIES.items():
        if path.is_relative_to(directory):
            return f"{prefix}{path.relative_to(directory).as_posix()}"
    return None


def _module_of(code: CodeType) -> str | None:
    """The name of the module in docs/architecture.md, if its function does something; None for helpers."""
    lines = {line for _, _, line in code.co_lines() if line is not None}
    if code.co_name == "<module>" or len(lines) < MIN_LINES:
        return None
    name = module_at(Path(code.co_filename))
    return None if name is None or is_helper(name) else name


def is_helper(module: str) -> bool:
    """Whether several packages share a module, which is then no part of a flow unless it decides something."""
    return module.startswith("_")


class Acting:
    """Notes which functions are called."""

    def __init__(self) -> None:
        self._codes: set[CodeType] = set()

    def see(self, frame: FrameType, event: str, argument: object) -> None:
        """The profile function."""
        if event == "call":
            self._codes.add(frame.f_code)

    def take(self) -> set[str]:
        """The modules of which a function was called since the last call."""
        codes, self._codes = self._codes, set()
        return {name for name in map(_module_of, codes) if name is not None}


@contextmanager
def acting() -> Iterator[set[str]]:
    """The modules of which a function is called in this thread during the block, which are known at its end."""
    seen, found = Acting(), set[str]()
    before = sys.getprofile()
    sys.setprofile(seen.see)
    try:
        yield found
    finally:
        sys.setprofile(before)
        found |= seen.take()
