"""The connector's deny list: identities that are refused although their certificates are valid."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import trio

from .._file_thread import FileThread
from .._text_files import numbered_lines, read_text, strip_blanks, strip_value
from ..errors import ConfigurationError
from ..protocol.reasons import Reason
from ..security import PeerIdentity, check_label
from ..security.identity import format_serial

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
        names = {peer.label, unicodedata.normalize("NFC", peer.label), peer.serial.upper()}
        return None if names.isdisjoint(self.shut_out) else Reason.IDENTITY_SHUT_OUT


def parse_shut_out(text: str) -> frozenset[str]:
    """Parse a deny list: a label or a serial on each line, perhaps in quotes; ``#`` begins a comment.

    A serial may have colons, blanks or hyphens, any case and leading zeros. Where a line can be read in several ways
    (a label may contain ``#`` or begin with a quote), each of them is shut out.

    Raises:
        ConfigurationError: a line is neither a label nor a serial; says which. Skipping it would admit an identity.
    """
    entries: set[str] = set()
    for number, line in numbered_lines(text):
        if not line or line.startswith("#"):
            continue
        readings = list(_readings(line))
        if not _is_label(readings[0]):
            raise ConfigurationError(
                f"line {number} is neither a label nor a serial",
                remedy="write one label or serial on each line, as the audit log shows it",
            )
        entries.update(unicodedata.normalize("NFC", one) for one in readings if _is_label(one))
        entries.update(filter(None, map(_serial, readings)))
    return frozenset(entries)


def _readings(line: str) -> Iterator[str]:
    """What a line may mean, the most likely first."""
    for candidate in (re.split(r"\s#", line, maxsplit=1)[0], line.partition("#")[0], line):
        yield strip_value(candidate)
        yield strip_blanks(candidate)


def _is_label(text: str) -> bool:
    try:
        check_label(text)
    except ValueError:
        return False
    return True


def _serial(text: str) -> str | None:
    digits = re.sub(r"[:\s-]", "", text).lower().removeprefix("0x")
    return format_serial(int(digits, 16)) if re.fullmatch(r"[0-9a-f]{1,64}", digits) else None


class PolicyFile:
    """The policy in a file, read again when the file changes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._reading = trio.Lock()
        self._files = FileThread(str(self.path))
        self.policy = self._read()

    def _read(self) -> Policy:
        try:
            stat = self.path.stat()
        except OSError as exc:
            raise ConfigurationError(
                f"cannot read the deny list {self.path}: {exc.strerror}",
                remedy="name a file with a label or serial on each line; it may be empty",
            ) from exc
        text = read_text(self.path, what="the deny list", limit=MAX_FILE_SIZE, regular=True)
        try:
            shut_out = parse_shut_out(text)
        except ConfigurationError as exc:
            raise ConfigurationError(f"the deny list {self.path}: {exc}", remedy=exc.remedy) from None
        self._stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return Policy(shut_out)

    def _changed(self) -> bool:
        try:
            stat = self.path.stat()
        except OSError:
            return True  # reading it will say why
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino) != self._stamp

    async def reload(self) -> Policy:
        """Read the file now, changed or not, and return the policy that is in it.

        Raises:
            ConfigurationError: it cannot be read or understood; the last policy stays in `policy`.
        """
        async with self._reading:  # so that what was read earlier is never kept later
            self.policy = await self._files.run(self._read)
        return self.policy

    async def watch(self, changed: Callable[[Policy], None], failed: Callable[[ConfigurationError], None]) -> None:
        """Poll until cancelled. A file that cannot be read leaves the last policy in force."""
        broken = False
        while True:
            await trio.sleep(POLL_SECONDS)
            try:
                if not await self._files.run(self._changed):
                    continue
                policy = await self.reload()
            except ConfigurationError as exc:
                if not broken:
                    failed(exc)
                broken = True
            else:
                broken = False
                changed(policy)
