"""Copies of connection strings whose files cannot be written, in the state directory.

A program cannot write a credential of systemd, a secret of Kubernetes, or a file of a read-only container. What it
receives for such a connection string (a new key, an update, a renewed identity) is written into a copy instead, which
the next start uses.

A copy has up to three parts: the key, the identity, and what updates change. It contains only those that differ from
the file, and for each of them a hash of what the file had. The rules:

1. A part of the copy is used as long as the file has what it had when the copy was written. If somebody
   changes the file, its new content is used, even if it is older than that of the copy.
2. When no part is used any more, because the file has caught up or was changed, the copy is removed.
3. A copy that is damaged is reported and not used.

Copies are written only below ``STATE_DIRECTORY``, which systemd or an administrator sets: this directory is known to
outlive the program. A home directory in a container may not outlive it, and a key that is lost with it must not count
as stored.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from .._file_lock import locked_files
from .._replace_file import create_file, remove_leftovers, replace_file
from .._value import Value
from ..errors import ConfigurationError
from ..events.endpoint import StringCopyNotUsed, StringCopyRemoved, StringCopyUsed, StringCopyWritten
from ..events.plain_log import plainly_logged_events
from ..security import ConnectionString, Secret
from ..security.connection_string import MAX_CONNECTION_STRING, parse_connection_string_untrusted

__all__ = ["StringCopies"]

_FORMAT: Final = "hybridrelay-string-copy"
_MAX_BYTES: Final = 2 * MAX_CONNECTION_STRING
#: How long to wait for another program that writes the copy (seconds).
_LOCK_SECONDS: Final = 5.0
#: Stands for a key that a copy does not contain.
_NO_KEY: Final = Secret("none")


class _Part(enum.StrEnum):
    """A part of a connection string that changes while a program runs."""

    KEY = "key"
    IDENTITY = "identity"
    UPDATE = "update"


#: What the file had in the parts that a copy contains, as hashes.
_Before: TypeAlias = Mapping[_Part, str]


@attrs.frozen
class _Copy(Value):
    before: _Before
    #: A hash of the authority's certificate. If the file has another authority, no part is used.
    authority: str
    #: What is to be used. Parts that are not in `before` are empty.
    string: ConnectionString

    def is_outdated(self, string: ConnectionString) -> bool:
        """Return whether somebody has changed the file since, other than to what the copy has."""
        now = {part: _hash_of(string, part) for part in self.before}
        return any(now[part] not in (was, _hash_of(self.string, part)) for part, was in self.before.items())

    def applied_to(self, string: ConnectionString) -> tuple[ConnectionString, tuple[_Part, ...]]:
        """Return the connection string that results from the file's, and which parts of it are the copy's."""
        same = (string.entity_path, string.role) == (self.string.entity_path, self.string.role)
        if not same or _authority_of(string) != self.authority:
            return string, ()
        used = tuple(part for part, was in self.before.items() if _hash_of(string, part) == was)
        changes: dict[str, Any] = {}
        for part in used:
            changes |= {name: getattr(self.string, name) for name in _FIELDS[part]}
        return attrs.evolve(string, **changes), used


#: The fields of each part.
_FIELDS: Final[Mapping[_Part, tuple[str, ...]]] = {
    _Part.KEY: ("key",),
    _Part.IDENTITY: ("identity",),
    _Part.UPDATE: ("endpoints", "relay_pins", "target", "update_sequence"),
}


class StringCopies:
    """The copies of one program.

    Args:
        directory: the state directory; None: there are no copies.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = None if directory is None else directory / "strings"

    @classmethod
    def of_service(cls, environ: Mapping[str, str] = os.environ) -> StringCopies:
        """Return the copies in the first directory that ``STATE_DIRECTORY`` names; systemd may name several."""
        given = environ.get("STATE_DIRECTORY", "").split(":")[0]
        return cls(Path(given) if given else None)

    def copy_of(self, file: Path) -> Path | None:
        """Return the path of the copy of a file; None if there are no copies."""
        if self._directory is None:
            return None
        return self._directory / f"{hashlib.sha256(os.fsencode(file.absolute())).hexdigest()[:32]}.json"

    def newest(self, string: ConnectionString) -> ConnectionString:
        """Return a connection string that was read from a file, with the parts that its copy replaces, and publish
        (only to the log) which parts these are. A copy that is no longer needed is removed. Blocks."""
        copy = None if string.file is None else self._read(string.file)
        if copy is None:
            return string
        assert string.file is not None
        found, parts = copy.applied_to(string)
        if not parts:
            self._remove(string.file)
            return string
        plainly_logged_events().publish(
            StringCopyUsed(
                connection=string.entity_path,
                file=str(string.file),
                copy=str(self.copy_of(string.file)),
                parts=tuple(part.value for part in parts),
            )
        )
        return found

    def base_of(self, stored: ConnectionString, before: ConnectionString) -> ConnectionString:
        """Return the connection string from which the one in use is derived: what the file has, if it has a copy
        that is not outdated, and both together have the hybrid connection and the identity of `before`; otherwise
        `before`. Blocks.

        Args:
            stored: what the file has now.
            before: the connection string in use.
        """
        copy = None if stored.file is None else self._read(stored.file)
        if copy is None or copy.is_outdated(stored):
            return before
        found, _ = copy.applied_to(stored)
        return stored if (found.entity_path, found.identity) == (before.entity_path, before.identity) else before

    def write(self, stored: ConnectionString, wanted: ConnectionString, why: str) -> str:
        """Write the copy of a file. Blocks.

        Args:
            stored: what the file has.
            wanted: what it would have if it could be written.
            why: why it cannot be.

        Returns:
            Empty if the copy was written. Otherwise `why`; if the copy could not be written, also the cause of that.
        """
        copy = None if stored.file is None else self.copy_of(stored.file)
        if copy is None:
            return why
        before = {part: was for part in _Part if (was := _hash_of(stored, part)) != _hash_of(wanted, part)}
        try:
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not copy.exists():
                with contextlib.suppress(FileExistsError):  # another program was faster
                    create_file(copy, b"{}\n")
            with locked_files([copy], seconds=_LOCK_SECONDS):
                remove_leftovers(copy)  # they contain keys
                replace_file(copy, _format(str(stored.file), _Copy(before, _authority_of(stored), wanted)))
        except OSError as exc:
            return f"{why}; its copy {copy} cannot be written either: {exc.strerror or exc}"
        plainly_logged_events().publish(
            StringCopyWritten(
                connection=stored.entity_path, file=str(stored.file), copy=str(copy), parts=tuple(before), detail=why
            )
        )
        return ""

    def tidy(self, stored: ConnectionString) -> None:
        """Remove the copy of a file that has this content now, if the copy is no longer needed. Blocks."""
        copy = None if stored.file is None else self._read(stored.file)
        if copy is not None and not copy.applied_to(stored)[1]:
            assert stored.file is not None
            self._remove(stored.file)

    def _remove(self, file: Path) -> None:
        copy = self.copy_of(file)
        if copy is None:
            return
        try:
            with locked_files([copy], seconds=_LOCK_SECONDS):
                remove_leftovers(copy)
                copy.unlink()
        except FileNotFoundError:
            return
        except OSError as exc:
            self._not_used(file, copy, f"it cannot be removed: {exc.strerror or exc}")
        else:
            plainly_logged_events().publish(StringCopyRemoved(file=str(file), copy=str(copy)))

    def _read(self, file: Path) -> _Copy | None:
        copy = self.copy_of(file)
        if copy is None:
            return None
        try:
            with copy.open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._not_used(file, copy, f"it cannot be read: {exc.strerror or exc}")
            return None
        if not data or data.strip() == b"{}":
            return None  # the program was killed before it could write it
        try:
            return _parse_untrusted(data)
        except ValueError as exc:
            self._not_used(file, copy, str(exc))
            return None

    def _not_used(self, file: Path, copy: Path, detail: str) -> None:
        plainly_logged_events().publish(
            StringCopyNotUsed(
                file=str(file),
                copy=str(copy),
                detail=detail,
                remedy="if the program cannot connect, write the current key into the file; then remove the copy",
            )
        )


def _hash_of(string: ConnectionString, part: _Part) -> str:
    """Return a hash of a part, which tells whether it has changed."""
    match part:
        case _Part.KEY:
            texts = [string.key_name, string.key.reveal()]
        case _Part.IDENTITY:
            texts = ["" if string.identity is None else string.identity.certificate.hex()]
        case _Part.UPDATE:
            texts = [_without(string, _Part.KEY, _Part.IDENTITY).format()]
    return _hash(part.value, *texts)


def _authority_of(string: ConnectionString) -> str:
    return _hash("authority", "" if string.authority is None else string.authority.hex())


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(["hybridrelay string copy", *texts]).encode()).hexdigest()


def _without(string: ConnectionString, *parts: _Part) -> ConnectionString:
    """Return a connection string without some parts, and without all that never changes while a program runs."""
    bare = attrs.evolve(string, issuer=None, local_name=None, update_key=None)
    if _Part.KEY in parts:
        bare = attrs.evolve(bare, key_name="none", key=_NO_KEY)
    if _Part.IDENTITY in parts:
        bare = attrs.evolve(bare, identity=None, authority=None)
    return bare


def _format(file: str, copy: _Copy) -> str:
    string = _without(copy.string, *(part for part in (_Part.KEY, _Part.IDENTITY) if part not in copy.before))
    content = {
        "format": _FORMAT,
        "version": 1,
        "file": file,
        "authority": copy.authority,
        "before": {part.value: was for part, was in copy.before.items()},
        "connectionString": string.format(),
    }
    return json.dumps(content, indent=1) + "\n"


def _parse_untrusted(data: bytes) -> _Copy:
    """Raises ValueError: it is not a copy. The text contains no part of the content."""
    if len(data) > _MAX_BYTES:
        raise ValueError("it is too large")
    try:
        content = json.loads(data)
        written_as = content["format"], content["version"]
    except (KeyError, TypeError, RecursionError, ValueError) as exc:
        raise ValueError("it is damaged, or was written by another program") from exc
    if written_as != (_FORMAT, 1):
        raise ValueError("it was written by another version, or by another program")
    try:
        before = {_Part(part): str(was) for part, was in content["before"].items()}
        return _Copy(
            before, str(content["authority"]), parse_connection_string_untrusted(content["connectionString"])
        )
    except (KeyError, TypeError, AttributeError, RecursionError, ConfigurationError, ValueError) as exc:
        raise ValueError("it is damaged") from exc
