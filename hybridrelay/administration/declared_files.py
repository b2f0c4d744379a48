"""The places of the files of declared hybrid connections: one directory, and for connectors, one below it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import attrs

__all__ = ["Files"]


@attrs.frozen
class Files:
    """The files of one hybrid connection in a directory."""

    directory: Path
    name: str

    @staticmethod
    def base_of(name: str) -> str:
        """Return the beginning of the names of its files."""
        return quote(name, safe="")

    def _path(self, suffix: str) -> Path:
        return self.directory / f"{self.base_of(self.name)}{suffix}"

    @property
    def strings(self) -> Path:
        """The directory of the connectors' connection strings."""
        return self.directory / "strings"

    @property
    def authority(self) -> Path:
        """The authority file."""
        return self._path(".authority")

    @property
    def connector(self) -> Path:
        """The connection string of the connector. It is in the directory `strings`, as for a service
        (`ServiceSettings.strings`), so that this directory can be copied to the connector's machine as it is."""
        return self.strings / f"{self.base_of(self.name)}.connector"

    @property
    def relay(self) -> Path:
        """The file for further relays to import."""
        return self._path(".relay")

    def application(self, label: str | None = None) -> Path:
        """Return the connection string of the first application, or of the one with this label."""
        # No name has an @, so no other hybrid connection has a file of this name.
        return self._path(".application" if label is None else f"@{quote(label, safe='')}.application")

    def existing_strings(self) -> tuple[Path, ...]:
        """Return its connection strings that are in the directory."""
        return tuple(path for path in (self.connector, *self.applications()) if path.exists())

    def applications(self) -> tuple[Path, ...]:
        """Return the connection strings of applications that are in the directory."""
        others = sorted(self.directory.glob(f"{self.base_of(self.name)}@*.application"))
        return tuple(path for path in (self.application(), *others) if path.exists())
