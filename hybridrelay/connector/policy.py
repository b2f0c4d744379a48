"""What the administrator of the private network allows: who may not come in, whatever certificate they show."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from ..errors import ConfigurationError
from ..protocol.reasons import Reason
from ..security import PeerIdentity

#: How soon a changed file takes effect (seconds).
POLL_SECONDS = 0.5
#: Bounds what is read again and again.
MAX_FILE_SIZE = 1 << 20


@attrs.frozen
class Policy:
    """Decides on every data channel and every stream."""

    #: Labels and serials (upper case hexadecimal) of identities that are shut out.
    shut_out: frozenset[str] = frozenset()

    def refusal(self, peer: PeerIdentity) -> Reason | None:
        """Why this peer may not open streams, or None."""
        if peer.label in self.shut_out or peer.serial.upper() in self.shut_out:
            return Reason.IDENTITY_SHUT_OUT
        return None


def parse_shut_out(text: str) -> frozenset[str]:
    """Labels or serials, one a line; ``#`` begins a comment. A serial may have colons and any case."""
    entries: set[str] = set()
    for line in text.splitlines():
        entry = line.partition("#")[0].strip()
        if entry:
            entries.update((entry, entry.replace(":", "").upper()))
    return frozenset(entries)


class PolicyFile:
    """The policy in a file, read again when the file changes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self.policy = self._read()

    def _read(self) -> Policy:
        try:
            stat = self.path.stat()
            if stat.st_size > MAX_FILE_SIZE:
                raise ConfigurationError(f"{self.path} is larger than {MAX_FILE_SIZE} bytes")
            text = self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(
                f"cannot read the shut-out file {self.path}: {exc}", remedy="it has a label or serial on each line"
            ) from exc
        self._stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return Policy(parse_shut_out(text))

    def _changed(self) -> bool:
        try:
            stat = self.path.stat()
        except OSError:
            return True  # reading it will say why
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino) != self._stamp

    async def watch(self, changed: Callable[[Policy], None], failed: Callable[[ConfigurationError], None]) -> None:
        """Poll until cancelled. A file that cannot be read leaves the last policy in force."""
        broken = False
        while True:
            await trio.sleep(POLL_SECONDS)
            if not await trio.to_thread.run_sync(self._changed):
                continue
            try:
                self.policy = await trio.to_thread.run_sync(self._read)
            except ConfigurationError as exc:
                if not broken:
                    failed(exc)
                broken = True
            else:
                broken = False
                changed(self.policy)
