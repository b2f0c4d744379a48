"""Files that list the relays (connection string files and authority files), and replacing that list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from ..errors import ConfigurationError
from ..security import ConnectionString, Endpoint
from ..security.loading import naming
from ..security.names import normal_host
from .authority_content import relays_of, with_relays
from .files_with_keys import read_file_of


@attrs.frozen
class FileWithRelays:
    """A file that lists the relays of one hybrid connection."""

    path: Path
    endpoints: tuple[Endpoint, ...]
    pins: tuple[str, ...]
    _format: Callable[[tuple[Endpoint, ...], tuple[str, ...]], str] = attrs.field(repr=False)

    def with_relays(self, endpoints: Sequence[Endpoint], pins: tuple[str, ...] | None, *, keep_ports: bool) -> str:
        """Return the file's new text, with these relays instead of the current ones.

        Args:
            endpoints: all relays, in order of preference.
            pins: the pins of all relays; None keeps those that are in the file.
            keep_ports: whether relays that are already in the file keep their ports.

        Raises:
            ConfigurationError: the relays or pins are not valid; the message names the file.
        """
        ports = {normal_host(one.host): one.ports for one in self.endpoints} if keep_ports else {}
        new = tuple(Endpoint(one.host, ports.get(normal_host(one.host), one.ports)) for one in endpoints)
        try:
            return self._format(new, self.pins if pins is None else pins)
        except ValueError as exc:
            raise ConfigurationError(f"{self.path}: {exc}") from None


def read_file_with_relays(path: Path, connection: str) -> FileWithRelays:
    """Read a connection string file or an authority file.

    Raises:
        ConfigurationError: the file is neither, or belongs to another hybrid connection.
    """
    content = read_file_of(path, connection)
    if isinstance(content, ConnectionString):
        string = content

        def format_string(endpoints: tuple[Endpoint, ...], pins: tuple[str, ...]) -> str:
            return attrs.evolve(string, endpoints=endpoints, relay_pins=pins).format() + "\n"

        return FileWithRelays(path, string.endpoints, string.relay_pins, format_string)
    file = content

    def format_authority(endpoints: tuple[Endpoint, ...], pins: tuple[str, ...]) -> str:
        return with_relays(file, endpoints, pins).format()

    with naming(path):
        return FileWithRelays(path, *relays_of(file), format_authority)
