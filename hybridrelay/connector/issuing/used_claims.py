"""The file in which connectors record the claims that were used. It contains no secret.

A claim is recorded before anything is signed for it, so that a connector that is killed at any moment does not forget
it. Several connectors on one machine may share the file: each change is made under a lock.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from ..._file_lock import locked_files
from ..._replace_file import replace_file
from ..._text_files import read_text
from ...errors import ConfigurationError
from .decision import MAX_USED_CLAIMS, Decision, UsedClaim, UsedClaims

__all__ = ["UsedClaimsFile"]

_FORMAT = "hybridrelay-used-claims"
_VERSION = 1
#: How long to wait for another connector that is changing the file (seconds).
_LOCK_SECONDS = 5.0
#: An entry takes less than 2 KB as JSON: its longest parts are a name of 260 ASCII characters, and a label
#: of 64 characters that may take 12 bytes each.
_MAX_BYTES = 4096 + MAX_USED_CLAIMS * 4096


class UsedClaimsFile:
    """The file. All methods block.

    Args:
        path: the file. It is created with mode 0600 when the first claim is used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def decide(self, decide: Callable[[UsedClaims], Decision]) -> Decision:
        """Make a decision that may change the file. On return, the change is on the disk.

        Raises:
            ConfigurationError: the file cannot be read or written, is damaged, or is locked by another process.
                Nothing was changed.
        """
        with self._locked():
            decision = decide(self._read())
            if decision.changed is not None:
                try:
                    replace_file(self.path, _format(decision.changed))
                except OSError as exc:
                    raise self._error(f"cannot be written: {exc.strerror or exc}") from exc
            return decision

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with locked_files([self.path], seconds=_LOCK_SECONDS):
                yield
        except TimeoutError:
            raise self._error("is being changed by another program") from None
        except OSError as exc:
            raise self._error(f"cannot be used: {exc.strerror or exc}") from exc

    def _read(self) -> UsedClaims:
        text = read_text(self.path, what="the file of used claims", limit=_MAX_BYTES, regular=True)
        if not text.strip():
            return UsedClaims()
        try:
            content = json.loads(text)
            if (content["format"], content["version"]) != (_FORMAT, _VERSION):
                raise ValueError("another format")
            return UsedClaims(tuple(map(_entry, content["used"])))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._error("is damaged, or of another version") from None

    def _error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"the file of used claims, {self.path}, {problem}",
            remedy="make it a file that this program can write, or name another one with --used-claims; if the file "
            "is lost, claims that it recorded could be used again until they expire",
        )


def _format(used: UsedClaims) -> str:
    content = {"format": _FORMAT, "version": _VERSION, "used": [attrs.asdict(one) for one in used.entries]}
    return json.dumps(content, indent=1) + "\n"


def _entry(value: dict[str, object]) -> UsedClaim:
    texts = [value[name] for name in ("connection", "serial", "label", "key")]
    times = [value[name] for name in ("used_at", "not_after")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not a text")
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
        raise ValueError("not a time")
    return UsedClaim(*map(str, texts), *map(float, times))  # type: ignore[arg-type]  # mypy cannot count them
