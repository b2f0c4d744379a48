"""The sources of the policy that is in force on this machine. Synchronous.

The machine-wide sources have fixed places that only the administrator of the machine can write. No argument, no
environment variable and no configuration file changes them, and they cannot be switched off.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs

from .._text_files import read_bytes
from .._value import Value
from ..errors import ConfigurationError
from .decision import Policy
from .directory import PolicyDirectory, Stamp, check_owner
from .document import Restrictions
from .managed import RegistryValue, parse_property_list, parse_registry

__all__ = [
    "DIRECTORY",
    "ManagedPreferences",
    "PolicySource",
    "RegistrySource",
    "machine_policy_place",
    "policy_sources",
    "read_policy",
]

#: The machine-wide policy on Linux and other systems, and on macOS in addition to the managed preferences. These
#: three are variables only for the project's own tests.
DIRECTORY = Path("/etc/hybridrelay/policy.d")
PREFERENCES = Path("/Library/Managed Preferences/org.hybridrelay.plist")
OWNER = 0
#: The machine-wide policy on Windows, below HKEY_LOCAL_MACHINE.
REGISTRY_KEY = r"SOFTWARE\Policies\HybridRelay"

_MAX_PROPERTY_LIST = 1 << 20


class PolicySource(Protocol):
    """A place where rules are written."""

    def stamp(self) -> Stamp:
        """Return a value that changes when the content may have changed; empty if there is nothing at this place.

        Raises:
            ConfigurationError: the place cannot be accessed.
        """
        ...

    def read(self) -> tuple[Restrictions, ...]:
        """Return the content.

        Raises:
            ConfigurationError: it cannot be read, somebody other than its owner could change it, or it is not valid.
        """
        ...

    def describe(self) -> str:
        """Return the place, for people."""
        ...


@attrs.frozen
class ManagedPreferences(Value):
    """The managed preferences of macOS: a property list that device management writes."""

    path: Path
    owner: int

    def stamp(self) -> Stamp:
        """See `PolicySource`."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise ConfigurationError(f"cannot read the policy in {self.path}: {exc.strerror or exc}") from exc
        return ((status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode),)

    def read(self) -> tuple[Restrictions, ...]:
        """See `PolicySource`."""
        if not self.stamp():
            return ()
        check_owner(self.path, self.owner)
        data = read_bytes(self.path, what="the policy file", limit=_MAX_PROPERTY_LIST, regular=True)
        if len(data) > _MAX_PROPERTY_LIST:
            raise ConfigurationError(f"{self.path} is larger than {_MAX_PROPERTY_LIST} bytes")
        return (parse_property_list(str(self.path), data),)

    def describe(self) -> str:
        """See `PolicySource`."""
        return str(self.path)


class RegistryReader(Protocol):
    """Reads a key of the registry of Windows."""

    def values(self, path: str) -> Sequence[RegistryValue]:
        """Return the values of a key below HKEY_LOCAL_MACHINE.

        Raises:
            FileNotFoundError: there is no such key.
            OSError: it cannot be read.
        """
        ...

    def subkeys(self, path: str) -> Sequence[str]:
        """Return the names of a key's subkeys. Raises the same errors as `values`."""
        ...


@attrs.frozen
class RegistrySource(Value):
    """The policy in the registry of Windows. Only administrators can write below SOFTWARE\\Policies."""

    reader: RegistryReader
    path: str = REGISTRY_KEY

    def stamp(self) -> Stamp:
        """See `PolicySource`. It is the whole content."""
        found = self._content()
        if found is None:
            return ()
        values, subkeys = found
        return (("key", *map(repr, values)), *((name, *map(repr, elements)) for name, elements in subkeys.items()))

    def read(self) -> tuple[Restrictions, ...]:
        """See `PolicySource`."""
        found = self._content()
        return () if found is None else (parse_registry(self.describe(), *found),)

    def describe(self) -> str:
        """See `PolicySource`."""
        return f"HKLM\\{self.path}"

    def _content(self) -> tuple[Sequence[RegistryValue], dict[str, Sequence[RegistryValue]]] | None:
        try:
            values, names = self.reader.values(self.path), self.reader.subkeys(self.path)
            return values, {name: self.reader.values(f"{self.path}\\{name}") for name in names}
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ConfigurationError(f"cannot read the policy in {self.describe()}: {exc.strerror or exc}") from exc


def policy_sources(directories: Sequence[Path] = ()) -> tuple[PolicySource, ...]:
    """Return all sources of the policy: those of the machine, and further directories, which can only restrict.

    Args:
        directories: the directories of ``--policy-dir``. Anybody may own them, and they have to exist.
    """
    return (*_machine_sources(), *map(PolicyDirectory, directories))


def machine_policy_place() -> str:
    """Return where the administrator of this machine writes its policy, for people."""
    return _machine_sources()[0].describe()


def _machine_sources() -> tuple[PolicySource, ...]:
    if sys.platform == "win32":
        return (RegistrySource(_WindowsRegistry()),)
    else:  # noqa: RET505 - mypy does not check what follows a return on another platform
        directory = PolicyDirectory(DIRECTORY, owner=OWNER, is_optional=True)
        return (directory, ManagedPreferences(PREFERENCES, OWNER)) if sys.platform == "darwin" else (directory,)


def read_policy(sources: Sequence[PolicySource]) -> Policy:
    """Read all sources.

    Raises:
        ConfigurationError: one of them cannot be read, or is not valid. Nothing is skipped.
    """
    return Policy(files=tuple(file for source in sources for file in source.read()))


if sys.platform == "win32":
    import winreg

    class _WindowsRegistry:
        """The registry of this machine, in the view of 64-bit programs."""

        def values(self, path: str) -> Sequence[RegistryValue]:
            with self._open(path) as key:
                return [winreg.EnumValue(key, number) for number in range(winreg.QueryInfoKey(key)[1])]

        def subkeys(self, path: str) -> Sequence[str]:
            with self._open(path) as key:
                return [winreg.EnumKey(key, number) for number in range(winreg.QueryInfoKey(key)[0])]

        def _open(self, path: str) -> winreg.HKEYType:
            return winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path, 0, winreg.KEY_READ | winreg.KEY_WOW64_64KEY)
