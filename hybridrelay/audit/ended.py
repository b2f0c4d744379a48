"""The files of an audit directory that have ended: their sizes, their compression, and what remains of deleted ones.

Compression runs in a thread of its own, at the same time as everything else here. All methods block.
"""

from __future__ import annotations

import threading

from .chain import MAX_LINE, file_name, file_number
from .disk import PART, Disk
from .lines import end_of_file

__all__ = ["EARLIER_KEYS", "MAX_EARLIER_KEYS_BYTES", "EndedFiles"]

#: The last lines of deleted files. Each is signed with the key of its own file, and names the key of the next one. So
#: a public key stays usable for ``audit verify --key`` after the files that it has signed were deleted.
EARLIER_KEYS = "earlier-keys.jsonl"
#: How many bytes of these lines are kept: about 2,000 lines. With a file each day, they last for more than five
#: years.
MAX_EARLIER_KEYS_BYTES = 1 << 20
_NEW_EARLIER_KEYS = f"{EARLIER_KEYS}.new"
#: What a compressed copy that is not complete is called.
_INCOMPLETE = f".gz{PART}"


class EndedFiles:
    """The files of a directory, except the newest one.

    Args:
        disk: the directory.
        max_keys_bytes: the maximum size of `EARLIER_KEYS`. Older lines are deleted.
    """

    def __init__(self, disk: Disk, max_keys_bytes: int = MAX_EARLIER_KEYS_BYTES) -> None:
        self._disk = disk
        self._max_keys_bytes = max_keys_bytes
        #: Held while a file is replaced by its compressed copy, or is deleted.
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of the files without the ending ``.gz``, the oldest first."""
        numbers = {file_number(name) for name in self._disk.names()} - {None}
        return [file_name(number) for number in sorted(number for number in numbers if number is not None)][:-1]

    def size(self) -> int:
        """Return how many bytes everything in the directory except the newest file can take.

        A file that is not compressed yet counts twice, because its compressed copy is made beside it.
        """
        names = self._disk.names()
        newest = max((file_number(name) or 0 for name in names), default=0)
        total = 0
        for name in names:
            number = file_number(name)
            if number is not None and number == newest:
                continue
            is_copied = name == EARLIER_KEYS or (number is not None and not name.endswith(".gz"))
            try:
                total += self._disk.size(name) * (2 if is_copied else 1)
            except FileNotFoundError:  # it was just compressed
                continue
        return total

    def first_line(self, name: str) -> bytes:
        """Return the first line of a file, whether it is compressed or not; empty if it is damaged."""
        try:
            return self._disk.first_line(name, MAX_LINE)
        except FileNotFoundError:
            return self._disk.first_line(f"{name}.gz", MAX_LINE)

    def delete(self, name: str) -> None:
        """Delete a file, compressed or not, and keep its last line in `EARLIER_KEYS`.

        Raises:
            OSError: the file may or may not have been deleted. Call this again.
        """
        with self._lock:
            self._keep_last_line(name)
            self._disk.remove(name)
            self._disk.remove(f"{name}.gz")
            self._disk.sync_names()

    def _keep_last_line(self, name: str) -> None:
        names = self._disk.names()
        form = next((one for one in (name, f"{name}.gz") if one in names), None)
        line = b"" if form is None else self._disk.last_line(form, MAX_LINE)
        if end_of_file(line) is None:
            return  # the file is damaged, or is deleted for the second time
        kept = self._disk.read(EARLIER_KEYS).splitlines(keepends=True) if EARLIER_KEYS in names else []
        if kept[-1:] == [line]:
            return
        if _NEW_EARLIER_KEYS in names:
            self._disk.remove(_NEW_EARLIER_KEYS)
        # If there is too much, the oldest lines are left out. The content has to begin with a whole line.
        content = b"".join([*kept, line])[-self._max_keys_bytes :]
        begin = 0 if content.startswith(kept[0] if kept else line) else content.find(b"\n") + 1
        self._disk.create(_NEW_EARLIER_KEYS, content[begin:])
        self._disk.rename(_NEW_EARLIER_KEYS, EARLIER_KEYS)

    def compress_next(self) -> bool:
        """Compress one file. May run at the same time as the other methods.

        Returns:
            Whether there was one. False, too, while the first line of the newest file is incomplete.

        Raises:
            OSError: it cannot be compressed. It stays as it is.
        """
        names = self._disk.names()
        for name in names:
            if name.endswith(_INCOMPLETE):
                self._disk.remove(name)
        plain = [name for name in names if file_number(name) is not None and not name.endswith(".gz")]
        if not plain or not self._disk.first_line(plain[-1], MAX_LINE).endswith(b"\n"):
            return False  # `AuditDirectory.open` may still remove the newest file, and continue the one before it
        for name in plain[:-1]:
            if f"{name}.gz" not in names:
                try:
                    self._disk.compress(name)
                except FileNotFoundError:  # it was deleted in the meantime
                    return True
            with self._lock:
                if f"{name}.gz" not in names:
                    if name not in self._disk.names():
                        self._disk.remove(f"{name}{_INCOMPLETE}")
                        return True
                    self._disk.rename(f"{name}{_INCOMPLETE}", f"{name}.gz")
                    self._disk.sync_names()
                self._disk.remove(name)
            return True
        return False
