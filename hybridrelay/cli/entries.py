"""What a connector, forward or run is configured to serve: one entry for each hybrid connection.

Entries come from the options, or from the tables ``[[connection]]`` of a configuration file.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from .._datagram_address import DatagramAddress
from .._name_ports import NamePorts
from .._own_address import EveryPort
from .._unix_address import UnixAddress
from .._value import Value
from ..errors import ConfigurationError
from ..security import ENVIRONMENT_VARIABLE, HostTarget

__all__ = ["ANYWHERE", "Entry", "Key", "Listen", "entries_of", "has_front", "is_any_port"]

#: A local address: a host and a port (for streams, or also for datagrams), an address with all ports of a local name,
#: or a Unix socket.
Listen: TypeAlias = tuple[str, int] | DatagramAddress | NamePorts | UnixAddress
#: The same before the connection string was read: ``own`` is an address that is computed from the local name.
Wished: TypeAlias = tuple[str, int] | DatagramAddress | EveryPort | UnixAddress | str
#: Identifies an entry as long as the program runs: the file, and the number of earlier entries with the same file.
Key: TypeAlias = tuple[str, int]

#: The default of ``--listen``: any free port, unless the local name has several ports. It is for what the target
#: receives.
ANYWHERE: Final = ("127.0.0.1", 0)


def is_any_port(address: Listen) -> bool:
    """Return whether the system chooses the port of a local address, so that several may be the same."""
    return (
        address[1] == 0 if isinstance(address, tuple) else isinstance(address, DatagramAddress) and not address.port
    )


@attrs.frozen
class Entry(Value):
    """One hybrid connection that is to be served."""

    #: The file with its connection string, - for standard input, or None for the environment variable.
    file: str | None
    key: Key
    #: The local addresses of a forward.
    listen: tuple[Listen, ...] = ()
    #: Where else it listens, at all ports of the local name, which are not known before the connection string is.
    every_port: tuple[EveryPort | str, ...] = ()
    #: Whether it listens where it does because nothing was said.
    listens_by_default: bool = False
    #: Whether a connector's connections to the target begin with a PROXY header.
    proxy_protocol: bool = False
    #: Whether a connector connects to all addresses of the target at the same time.
    connect_in_parallel: bool = False
    #: A connector's deny list for this hybrid connection.
    deny_list: Path | None = None
    #: The names and ports under which an application that `run` starts knows the target; empty for the local name of
    #: the connection string.
    published_names: tuple[HostTarget, ...] = ()
    #: Where the entry is in the configuration file, for messages: ``connector.toml: line 3``. Empty if it comes from
    #: the options.
    where: str = attrs.field(default="", eq=False)

    @property
    def path(self) -> Path | None:
        """The file, if there is one that can be read again."""
        return None if self.file in (None, "-") else Path(str(self.file))

    def error(self, error: ConfigurationError) -> ConfigurationError:
        """Return an error about this entry, which says where the entry is."""
        return ConfigurationError(f"{self.where}: {error}", remedy=error.remedy) if self.where else error


def entries_of(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> tuple[Entry, ...]:
    """Return the entries that a connector, forward or run is to serve, in their order; at least one.

    Args:
        args: the options, after `use_config_file`.
        environ: the environment, which has the directory of systemd's credentials.

    Raises:
        ConfigurationError: the options do not fit together. The message says where.
    """
    counts: Counter[str] = Counter()

    def key_of(file: str | None) -> Key:
        name = file or ""
        counts[name] += 1
        return name, counts[name] - 1

    listens, runs = "listen" in args, "published_names" in args
    if args.connections:
        if args.files:
            raise ConfigurationError(
                f"{args.config} has tables [[connection]], and there is --connection-string-file",
                remedy="name all connection strings in the file, or all on the command line",
            )
        if listens and args.listen and not _is_own(args.listen):
            raise ConfigurationError(
                f"{args.config} has tables [[connection]], which --listen does not apply to",
                remedy='write listen in the tables; only "own" can be for all tables that have none',
            )
        if runs and args.published_names:
            raise ConfigurationError(
                f"{args.config} has tables [[connection]], which --as does not apply to",
                remedy="write as in the tables",
            )
        return tuple(_of_table(table, args, key_of, environ) for table in args.connections)
    if args.config is not None and not args.files and not environ.get(ENVIRONMENT_VARIABLE):
        raise ConfigurationError(
            f"{args.config} names no connection string",
            remedy='add a table [[connection]] with the name of its file: file = "orders.'
            f'{"application" if listens or runs else "connector"}"',
        )
    files: Sequence[str | None] = args.files or [None]
    listen: Sequence[Wished] = (args.listen or _default_listen(args) * len(files)) if listens else ()
    if _is_own(listen):
        listen = [*listen] * len(files)
    has_one = len(files) == 1  # then all addresses are for it
    if listens and not has_one and len(listen) not in (len(files), 0):
        raise ConfigurationError(
            f"{len(listen)} times --listen for {len(files)} connection strings",
            remedy="give one --listen for each --connection-string-file, or none at all; --listen own can be for "
            "all; for several addresses of one of them, write a configuration file (--config)",
        )
    if runs:
        return _of_names(files, args.published_names, key_of)
    connects = not listens
    return tuple(
        _listening(
            Entry(
                file,
                key_of(file),
                proxy_protocol=connects and args.proxy_protocol,
                connect_in_parallel=connects and args.connect_in_parallel,
            ),
            listen if has_one else listen[number : number + 1],
            by_default=listens and not args.listen,
        )
        for number, file in enumerate(files)
    )


def _is_own(listen: Sequence[Wished]) -> bool:
    """Return whether a single value is for all hybrid connections: an address of its own for each."""
    return len(listen) == 1 and isinstance(listen[0], str)


def _listening(entry: Entry, listen: Sequence[Wished], *, by_default: bool) -> Entry:
    """Add local addresses to an entry, as the user has given them."""
    addresses: list[Listen] = []
    every_port: list[EveryPort | str] = []
    for one in listen:
        if isinstance(one, str | EveryPort):
            every_port.append(one)
        else:
            addresses.append(one)
    return attrs.evolve(
        entry,
        listen=tuple(addresses),
        every_port=tuple(dict.fromkeys(every_port)),
        listens_by_default=by_default and bool(addresses),
    )


def _of_names(
    files: Sequence[str | None], names: Sequence[HostTarget], key_of: Callable[[str | None], Key]
) -> tuple[Entry, ...]:
    if names and len(names) != len(files):
        raise ConfigurationError(
            f"{len(names)} times --as for {len(files)} connection string{'s' if len(files) > 1 else ''}",
            remedy="give one --as for each --connection-string-file, or none at all; to give one hybrid connection "
            "several names, write a configuration file",
        )
    return tuple(
        Entry(file, key_of(file), published_names=(names[number],) if names else ())
        for number, file in enumerate(files)
    )


def has_front(args: argparse.Namespace) -> bool:
    """Return whether there is a front, through which applications reach every hybrid connection by its name. A name
    server does not count, because it only answers queries. A connector, which has no such options, has no front."""
    return any(getattr(args, kind, ()) for kind in ("socks", "http_proxy"))


def _default_listen(args: argparse.Namespace) -> list[Wished]:
    """Return the default local addresses of an entry: none, if there are fronts."""
    return [] if has_front(args) else [ANYWHERE]


def _of_table(
    table: argparse.Namespace,
    args: argparse.Namespace,
    key_of: Callable[[str | None], Key],
    environ: Mapping[str, str],
) -> Entry:
    file = table.file
    if file is None:
        directory = environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ConfigurationError(
                f"{table.where}: there are no credentials (CREDENTIALS_DIRECTORY is not set)",
                remedy=f"in the service's unit: LoadCredential={table.credential}:/path/of/the/file; or use file",
            )
        file = str(Path(directory) / table.credential)
    if "published_names" in args:
        return Entry(file, key_of(file), published_names=tuple(table.published_names), where=table.where)
    if "listen" in args:
        return _listening(
            Entry(file, key_of(file), where=table.where),
            table.listen or args.listen or _default_listen(args),
            by_default=not (table.listen or args.listen),
        )
    # Keys that a table does not have are taken from the rest of the file, or from the options.
    return Entry(
        file,
        key_of(file),
        proxy_protocol=args.proxy_protocol if table.proxy_protocol is None else table.proxy_protocol,
        connect_in_parallel=(
            args.connect_in_parallel if table.connect_in_parallel is None else table.connect_in_parallel
        ),
        deny_list=table.deny_list,
        where=table.where,
    )
