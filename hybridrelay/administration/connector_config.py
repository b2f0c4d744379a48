"""Keeping the tables ``[[connection]]`` of a connector's configuration file in step with what is declared.

Everything else in the file belongs to the administrator: other options, further keys of the tables, tables of other
hybrid connections, comments. It has to stay as it is. So the text is changed line by line, and what the result means
is compared with what it has to mean.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import attrs

from .._replace_file import create_file, replace_file
from .._text_files import read_text
from .._toml_files import TomlFile, read_toml
from ..errors import ConfigurationError

__all__ = ["ConfigChange", "update_connector_config"]

_LIMIT = 256 * 1024
_WHAT = "the connector's configuration file"
#: The file contains no secret, and the user of a service has to be able to read it.
_PUBLIC = 0o644
_HEADER = "# 'hybridrelay connections apply' adds a table for each hybrid connection. The rest is left as it is.\n"


@attrs.frozen
class ConfigChange:
    """What was changed in a configuration file. Nothing if both are empty."""

    #: The connection string files for which a table was added.
    added: tuple[str, ...] = ()
    #: The files whose table was removed.
    removed: tuple[str, ...] = ()


def _make_public(descriptor: int) -> None:
    if sys.platform != "win32":
        os.fchmod(descriptor, _PUBLIC)


def update_connector_config(path: Path, files: Sequence[str], is_removed: Callable[[str], bool]) -> ConfigChange:
    """Add a table for each connection string file that has none yet, and remove tables.

    A table belongs to a connection string file if the last part of its path is the same, because the administrator
    may keep the files in another directory.

    Args:
        path: the configuration file. It is created if it is missing.
        files: the connection string files that need a table, relative to the configuration file.
        is_removed: returns whether to remove the table of the file with this name.

    Raises:
        ConfigurationError: the file cannot be read, is not TOML, or its tables are written in a way that cannot be
            changed here. It is unchanged; in the last case, the remedy says what to change in it.
        OSError: it cannot be written.
    """
    if not path.exists():
        create_file(path, (_HEADER + "".join(_table(file) for file in files)).encode(), _make_public)
        return ConfigChange(added=tuple(files))
    file = read_toml(path, what=_WHAT, limit=_LIMIT)
    tables = file.content.get("connection", [])
    names = [_name_in(table) for table in tables] if isinstance(tables, list) else []
    removed = [number for number, name in enumerate(names) if is_removed(name)]
    added = [one for one in files if PurePath(one).name not in names]
    if not (removed or added):
        return ConfigChange()
    text = read_text(path, what=_WHAT, limit=_LIMIT)
    changed = _without(text, file, removed) if removed else text
    changed = _joined(changed, added)
    wanted = dict(file.content)
    wanted["connection"] = [
        *(table for number, table in enumerate(tables) if number not in removed),
        *({"file": one} for one in added),
    ]
    if not wanted["connection"]:
        del wanted["connection"]
    if _parsed(changed) != wanted:
        lines = [f'add [[connection]] with file = "{one}"' for one in added]
        lines += [f"remove the table of {names[number]}" for number in removed]
        raise ConfigurationError(
            f"{path} cannot be changed automatically, because of the way in which its tables are written",
            remedy="change it yourself: " + "; ".join(lines),
        )
    replace_file(path, changed)
    return ConfigChange(tuple(added), tuple(names[number] for number in removed))


def _table(file: str) -> str:
    return f'\n[[connection]]\nfile = "{file}"\n'


def _name_in(table: Any) -> str:
    """Return the name of the connection string file of a table; empty if it has none."""
    value = table.get("file") if isinstance(table, Mapping) else None
    return PurePath(value).name if isinstance(value, str) else ""


def _joined(text: str, files: Sequence[str]) -> str:
    end = "" if not text or text.endswith("\n") else "\n"
    return text + (end if files else "") + "".join(_table(file) for file in files)


def _without(text: str, file: TomlFile, numbers: Collection[int]) -> str:
    """Return the text without some tables, and without the comments immediately above them."""
    lines = [f"{line}\n" for line in text.split("\n")]
    begins = sorted(set(_beginnings(file)))
    gone: set[int] = set()
    for number in numbers:
        begin = file.line_of("connection", number)
        assert begin is not None, "the table was found in this file"
        end = next((one for one in begins if one > begin), len(lines) + 1)
        first, end = _with_comments(lines, begin), _with_comments(lines, end)
        gone.update(range(first, end))
    return "".join(line for number, line in enumerate(lines, 1) if number not in gone).removesuffix("\n")


def _beginnings(file: TomlFile) -> Iterator[int]:
    """Yield the lines in which tables and other top-level keys begin."""
    for key, value in file.content.items():
        places = [(key, number) for number in range(len(value))] if key == "connection" else [(key,)]
        yield from (line for place in places if (line := file.line_of(*place)) is not None)


def _with_comments(lines: Sequence[str], begin: int) -> int:
    """Return the first line of the comments that are immediately above a line; the line itself if there are none."""
    while begin > 1 and begin - 2 < len(lines) and lines[begin - 2].lstrip().startswith("#"):
        begin -= 1
    return begin


def _parsed(text: str) -> dict[str, Any] | None:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
