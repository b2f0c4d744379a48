"""The relay's configuration file: TOML, with the names of the command line's options."""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._text_files import read_text
from ..errors import ConfigurationError
from . import values
from .parser import LEVELS

_MAX_FILE = 256 * 1024


def apply_config_file(args: argparse.Namespace, path: Path) -> None:
    """Fill in the options that the command line left open.

    Relative paths in the file are relative to the file.

    Args:
        args: what argparse gave; options that were not given are None.
        path: the file.

    Raises:
        ConfigurationError: it cannot be read, or a key or a value in it is wrong; says which.
    """
    try:
        content = tomllib.loads(read_text(path, what="the configuration file", limit=_MAX_FILE))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{path} is not TOML: {exc}") from None
    for key, value in content.items():
        parse = _KEYS.get(key)
        if parse is None:
            raise _unknown(path, key)
        try:
            parsed = parse(value)
        except (ValueError, argparse.ArgumentTypeError) as exc:
            raise ConfigurationError(f"{path}: {key}: {exc}") from None
        if isinstance(parsed, Path):
            parsed = path.parent / parsed
        attribute = key.replace("-", "_")
        if getattr(args, attribute, None) is None:
            setattr(args, attribute, parsed)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text in quotes")
    return value


def _path(value: Any) -> Path:
    return Path(_text(value))


def _hosts(value: Any) -> list[str]:
    return [values.host(_text(one)) for one in (value if isinstance(value, list) else [value])]


def _items(value: Any) -> str:
    """Ports may be written as on the command line, or as a table."""
    if isinstance(value, Mapping):
        for entry in value.values():
            if isinstance(entry, bool) or not isinstance(entry, int | str):
                raise ValueError('expected numbers, "address:number" or "off"')
        return ",".join(f"{name}={entry}" for name, entry in value.items())
    return _text(value)


def _level(value: Any) -> str:
    level = _text(value).lower()
    if level not in LEVELS:
        raise ValueError(f"expected one of {', '.join(LEVELS)}")
    return level


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


_KEYS: Mapping[str, Callable[[Any], object]] = {
    "state": _path,
    "host": _hosts,
    "ports": lambda value: values.ports(_items(value)),
    "public-ports": lambda value: values.public_ports(_items(value)),
    "tls-certificate": _path,
    "tls-key": _path,
    "log-level": _level,
    "log-json": _flag,
}


def _unknown(path: Path, key: str) -> ConfigurationError:
    close = difflib.get_close_matches(key.replace("_", "-"), _KEYS, n=1)
    shown = "".join(char if char.isprintable() else " " for char in key[:40])
    remedy = f"did you mean {close[0]}?" if close else f"known are: {', '.join(_KEYS)}"
    return ConfigurationError(f"{path}: unknown key {shown!r}", remedy=remedy)
