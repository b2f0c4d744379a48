"""Configuration files: TOML, with a command's options as keys and the options' values.

The keys are taken from the command's parser, so that a new option of a command is also a key in its file. The file of
a connector, forward or run may have a table ``[[connection]]`` for each hybrid connection. The keys of these tables
are taken from a parser, too (`add_connection_tables`).
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._printable import printable
from .._toml_files import TomlFile, read_toml
from ..errors import ConfigurationError
from .arguments import values
from .arguments.options import MergePorts
from .logs import set_up_logs
from .option_places import note_place

_MAX_FILE = 256 * 1024
#: Options that are not allowed in a file.
_COMMAND_LINE_ONLY = frozenset({"config", "help", "version", "check", "json"})
_PORTS_FORM = 'expected numbers, "address:number" or "off"'
#: Options that every command has, and that may also be given before the command's name.
_COMMON = frozenset({"log_level", "log_json"})


def use_config_file(args: argparse.Namespace) -> None:
    """Take options that were not given on the command line from the file of ``--config``, if there is one.

    Raises:
        ConfigurationError: see `apply_config_file`.
    """
    if args.config is not None:
        apply_config_file(args, args.config)
        set_up_logs(args.log_level or args.default_log_level, as_json=bool(args.log_json))


def apply_config_file(args: argparse.Namespace, path: Path, *, regular: bool = False) -> None:
    """Take options that were not given on the command line from a file.

    Relative paths in the file are relative to the file. An option of ports on the command line counts for the ports
    that it names, and the file for all others.

    Args:
        args: the parsed arguments of a command with `add_config`.
        path: the file.
        regular: whether the file has to be a regular file, and not a pipe.

    Raises:
        ConfigurationError: the file cannot be read, or a key or a value in it is not valid; the message says
            which, and in which line.
    """

    file = read_toml(path, what="the configuration file", limit=_MAX_FILE, regular=regular)
    content = dict(file.content)
    tables = content.pop("connection", None) if "connection_keys" in args else None
    known = _known_options(args.parser)
    if "connection_keys" in args and "connections" in content:
        raise ConfigurationError(
            f"{file.at('connections')}: unknown key 'connections'",
            remedy="for a table for each hybrid connection, write [[connection]]",
        )
    for key, (action, converted) in _convert_all(content, known, file, (), path.parent).items():
        if tables and action.dest == "files":
            raise ConfigurationError(
                f"{file.at(key)}: {key}: the file also has tables [[connection]]",
                remedy="write a table for each connection string, or none at all",
            )
        if not _is_given(args, action):
            setattr(args, action.dest, converted)
            note_place(args, action.dest, file.at(key))
        elif isinstance(action, MergePorts):
            setattr(args, action.dest, {**converted, **getattr(args, action.dest)})
    if tables is not None:
        args.connections = list(_read_tables(args, tables, file, path.parent))


def _read_tables(
    args: argparse.Namespace, tables: Any, file: TomlFile, directory: Path
) -> Iterator[argparse.Namespace]:
    """Yield the content of each table ``[[connection]]``, with its place in the file as `where`."""
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigurationError(f"{file.at('connection')}: write [[connection]], in two pairs of brackets")
    for number, table in enumerate(tables):
        found = read_table(args.connection_keys, table, file, ("connection", number), directory)
        found.where = file.at("connection", number)
        if (found.file is None) == (found.credential is None):
            raise ConfigurationError(
                f"{found.where}: a connection needs either file or credential",
                remedy='name the file with its connection string: file = "orders.connector"',
            )
        yield found


def read_table(
    keys: argparse.ArgumentParser,
    table: Mapping[str, Any],
    file: TomlFile,
    place: tuple[str | int, ...],
    directory: Path = Path(),
) -> argparse.Namespace:
    """Read a table of a file.

    Args:
        keys: the keys, as options.
        table: the table.
        file, place: the file, and where the table is in it, for messages.
        directory: relative paths are relative to this.

    Raises:
        ConfigurationError: a key or a value is not valid; the message says which, and in which line.
    """
    found = keys.parse_args([])
    for action, converted in _convert_all(table, _known_options(keys), file, place, directory).values():
        setattr(found, action.dest, converted)
    return found


def _convert_all(
    content: Mapping[str, Any],
    known: Mapping[str, argparse.Action],
    file: TomlFile,
    place: tuple[str | int, ...],
    directory: Path,
) -> dict[str, tuple[argparse.Action, Any]]:
    """Convert the values of a table.

    Args:
        content: the table.
        known: the options by their names.
        file: the file, for messages.
        place: where the table is in the file.
        directory: relative paths are relative to this.

    Returns:
        For each key, its option and its value as argparse would have produced it.
    """
    found = {}
    for key, value in content.items():
        action = known.get(key)
        if action is None:
            raise _unknown(file.at(*place, key), key, known)
        if action.metavar == "PORTS":
            for number, table in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(table, Mapping):
                    at = (*place, key) if number is None else (*place, key, number)
                    _check_ports(action, key, table, file, at)
        try:
            found[key] = action, _convert(action, value, directory)
        except (ValueError, argparse.ArgumentTypeError) as exc:
            raise ConfigurationError(f"{file.at(*place, key)}: {key}: {exc}") from None
        if action.metavar == "PORTS":
            converted = found[key][1]
            for names in converted if isinstance(converted, list) else [converted]:
                _check_port_names(names, file, (*place, key))
    return found


def _check_ports(
    action: argparse.Action, key: str, table: Mapping[str, Any], file: TomlFile, place: tuple[str | int, ...]
) -> None:
    """Check the entries of a table of ports one by one, so that a message names the line of the entry.

    Args:
        action: the option.
        key: its name.
        table: the entries.
        file: the file, for messages.
        place: where the table is in the file.

    Raises:
        ConfigurationError: one is not valid.
    """
    for name, value in table.items():
        try:
            if list(_convert_one(action, {name: value}, Path())) != [name]:
                raise ValueError(_PORTS_FORM)
        except (ValueError, argparse.ArgumentTypeError) as exc:
            raise ConfigurationError(f"{file.at(*place, name)}: {key}.{printable(name[:40])}: {exc}") from None


def _check_port_names(names: Iterable[str], file: TomlFile, place: tuple[str | int, ...]) -> None:
    from ..connectivity import all_ports, discover  # imported here, because most files name no ports

    # Transports that cannot be used are reported when the ports are opened.
    known = all_ports(discover(on_broken=lambda _: None))
    for name in names:
        if name not in known:
            raise _unknown(file.at(*place, name), name, known, what="port")


def _known_options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the options by their names in a file, with those that every command has at the end."""
    actions = [action for action in parser._actions if action.dest not in _COMMAND_LINE_ONLY]
    actions.sort(key=lambda action: action.dest in _COMMON)
    return {name[2:]: action for action in actions for name in action.option_strings if name.startswith("--")}


def changed_options(before: argparse.Namespace, after: argparse.Namespace, *, but: Collection[str] = ()) -> list[str]:
    """Return the keys of a configuration file whose values differ, except those of options in `but`."""
    return [
        name
        for name, action in _known_options(before.parser).items()
        if action.dest not in but and getattr(before, action.dest, None) != getattr(after, action.dest, None)
    ]


def _is_given(args: argparse.Namespace, action: argparse.Action) -> bool:
    if action.dest in _COMMON and getattr(args, action.dest, None) is not None:
        return True
    return not args.given_options.isdisjoint(action.option_strings)


def _convert(action: argparse.Action, value: Any, directory: Path) -> Any:
    """Convert a value in the file into the value that argparse would have produced.

    Raises:
        ValueError, argparse.ArgumentTypeError: the option does not accept the value.
    """
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if isinstance(action, argparse._AppendAction):  # also for `extend`, whose class is a subclass
        if value == []:
            # Otherwise `host = []` would mean every address, and not none.
            raise ValueError("the list is empty: expected at least one value, or no such key")
        return [_convert_one(action, one, directory) for one in (value if isinstance(value, list) else [value])]
    return _convert_one(action, value, directory)


def _convert_one(action: argparse.Action, value: Any, directory: Path) -> Any:
    text = _as_text(action, value)
    converted: Any = action.type(text) if callable(action.type) else text
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}")
    if isinstance(converted, Path):
        return directory / converted
    if action.type is values.path_or_stdin and converted != "-":
        return str(directory / converted)
    return converted


def _as_text(action: argparse.Action, value: Any) -> str:
    if isinstance(value, str):
        return value
    if action.metavar == "PORTS" and isinstance(value, Mapping):
        for entry in value.values():
            if isinstance(entry, bool) or not isinstance(entry, int | str):
                raise ValueError(_PORTS_FORM)
        return ",".join(f"{name}={entry}" for name, entry in value.items())
    if action.metavar == "SECONDS" and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:f}" if isinstance(value, float) else str(value)
    if action.metavar == "N" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("expected a number" if action.metavar in ("SECONDS", "N") else "expected a string in quotes")


def _unknown(where: str, key: str, known: Mapping[str, object], *, what: str = "key") -> ConfigurationError:
    close = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"the known {what}s are: {', '.join(known)}"
    return ConfigurationError(f"{where}: unknown {what} {printable(key[:40])!r}", remedy=remedy)
