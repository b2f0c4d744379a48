"""The two keys of an audit directory: ``signing.key`` signs the newest file, and ``next.key`` is for the file after
it, and exists only while that file is being created."""

from __future__ import annotations

from typing import Final

from .disk import Disk
from .keys import SigningKey

__all__ = ["NEXT_KEY", "SIGNING_KEY", "KeyFiles"]

SIGNING_KEY: Final = "signing.key"
NEXT_KEY: Final = "next.key"


class KeyFiles:
    """The files of the keys. All methods block, and raise OSError if a file cannot be read or changed."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def has_current(self) -> bool:
        """Return whether there is a file for the current key, whatever its content."""
        return self._has(SIGNING_KEY)

    def current(self) -> SigningKey | None:
        """Return the current key; None if it does not exist, or was not written or overwritten completely."""
        return self._read(SIGNING_KEY)

    def following(self) -> SigningKey | None:
        """Return the key of the next file; None as for `current`."""
        return self._read(NEXT_KEY)

    def write_following(self, key: SigningKey) -> None:
        """Write the key of the next file, in place of one that was never used."""
        self.erase_following()
        self._disk.create(NEXT_KEY, key.to_file())

    def erase_following(self) -> None:
        """Overwrite and remove the key of the next file, if there is one."""
        if self._has(NEXT_KEY):
            self._disk.overwrite(NEXT_KEY)
            self._disk.remove(NEXT_KEY)
            self._disk.sync_names()

    def promote(self) -> None:
        """Overwrite the current key. The next one takes its place."""
        if self._has(SIGNING_KEY):
            self._disk.overwrite(SIGNING_KEY)
        self._disk.rename(NEXT_KEY, SIGNING_KEY)
        self._disk.sync_names()

    def _has(self, name: str) -> bool:
        return name in self._disk.names()

    def _read(self, name: str) -> SigningKey | None:
        if not self._has(name):
            return None
        try:
            return SigningKey.from_file(self._disk.read(name, 0, 1024))
        except ValueError:
            return None
