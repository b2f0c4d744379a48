"""Reading what a program is to serve, at its start and again while it runs."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

from ..._file_thread import FileThread, side_by_side
from ..._value import Value
from ...errors import ConfigurationError
from ...events.plain_log import plainly_logged_events
from ...events.program import ReloadSkipped
from ...security import ConnectionString, Role
from ...security.loading import describe_source
from ..config_file import apply_config_file, changed_options, use_config_file
from ..connection_strings import load_again, load_all
from ..entries import Entry, Key, entries_of, has_front
from ..option_parts import OptionParts
from ..proxies import DialOptions, dial_files, read_dial_options
from ..reloading import publish_not_reloaded
from ..string_copies import StringCopies
from ..update_marks import UpdateMarks
from .front_options import FrontOptions, read_front_options
from .own_addresses import check_names_for_fronts, with_own_addresses
from .plan import Running, Wanted
from .watching import FileWatch

__all__ = ["Configuration", "Reading"]

#: The options that say what is served, which can be changed while the program runs.
_SERVED = frozenset(
    {"files", "listen", "published_names", "connections", "proxy_protocol", "connect_in_parallel"}
    | {"socks", "http_proxy", "dns", "front_users_file"}
    | {"proxy", "proxy_password_file", "websocket_path_prefix", "websocket_headers_file"}
)
#: How errors name the files about how relays are reached.
_DIAL_FILES = "the file of --proxy-password-file or --websocket-headers-file"


@attrs.frozen
class Reading(Value):
    """What is to be served from now on."""

    wanted: tuple[Wanted, ...]
    #: How relays are reached.
    dial: DialOptions
    #: All options.
    args: argparse.Namespace
    #: Whether all connection strings could be read.
    is_complete: bool = True
    #: The fronts of a forward.
    fronts: FrontOptions | None = None


class Configuration:
    """The options of a connector, forward or run, its configuration file, and its connection strings.

    Args:
        args: the options. Those in the configuration file are added to them.
        role: the side that the connection strings have to be for.

    Raises:
        ConfigurationError: a file or an option cannot be used. The message says where.
    """

    def __init__(self, args: argparse.Namespace, role: Role) -> None:
        self._given = copy.copy(args)
        self._args = args
        self._role = role
        #: The configuration file.
        self.file: Path | None = args.config
        #: The file with the users of fronts.
        self._users_file: Path | None = None
        #: The files about how relays are reached.
        self._dial_files: list[Path] = []
        self._threads: dict[str, FileThread] = {}
        self._marks: UpdateMarks | None = None
        #: What was received for connection strings whose files cannot be written.
        self.copies = StringCopies.of_service()
        #: Why connection strings could not be read the last time, as it was reported.
        self._unreadable: dict[Key, ConfigurationError] = {}
        self._entries: tuple[Entry, ...] = ()
        #: The entries whose files are watched. They may be those of a configuration that cannot be used; it is read
        #: again when one of its files appears.
        self._watched: tuple[Entry, ...] = ()
        #: Watches the configuration file and the connection strings.
        self.watch = FileWatch(self._paths)
        self.watch.note(self._paths())
        use_config_file(args)
        self._entries = self._watched = entries_of(args)
        self._users_file = getattr(args, "front_users_file", None)
        self._dial_files = dial_files(args)
        self.watch.note(self._paths())

    def fronts(self) -> FrontOptions:
        """Read the options of fronts at the start of a forward.

        Raises:
            ConfigurationError: see `read_front_options`.
        """
        return read_front_options(self._args)

    def dial_options(self) -> DialOptions:
        """Read how relays are reached, at the start of a program.

        Raises:
            ConfigurationError: see `read_dial_options`.
        """
        return read_dial_options(self._args)

    def files(self) -> Sequence[Path]:
        """Return the files with the connection strings that are served now."""
        return [entry.path for entry in self._entries if entry.path is not None]

    @property
    def unreadable(self) -> Sequence[ConfigurationError]:
        """Why connection strings could not be read the last time. The earlier ones are in use."""
        return tuple(self._unreadable.values())

    def _paths(self) -> Iterable[Path]:
        """Return the files that are watched."""
        if self.file is not None:
            yield self.file
        if self._users_file is not None:
            yield self._users_file
        yield from self._dial_files
        for entry in self._watched:
            if entry.path is not None:
                yield entry.path

    def load(self, marks: UpdateMarks | None = None) -> tuple[Wanted, ...]:
        """Read all connection strings at the start of the program.

        Args:
            marks: if given, a connection string that is older than the last update that was used is reported, now and
                later.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        files = [entry.file for entry in self._entries]
        if files.count("-") > 1:
            raise ConfigurationError(
                "standard input (-) holds one connection string", remedy="use files for the others"
            )
        found = []
        for entry in self._entries:
            try:
                (string,) = load_all([] if entry.file is None else [entry.file], self._role)
            except ConfigurationError as exc:
                if entry.where:
                    exc.args = (f"{entry.where}: {exc}",)
                raise
            string = self.copies.newest(string)
            if marks is not None:
                marks.warn_if_older(string)
            found.append(Wanted(entry, string))
        self._marks = marks
        placed = with_own_addresses(found, {})
        if has_front(self._args):
            check_names_for_fronts(placed, {})
        return placed

    async def read_again(self, running: Mapping[Key, Running], *, says_all: bool) -> Reading:
        """Read the configuration file and the connection strings again.

        A connection string that cannot be used is reported once, if it is served: the earlier one stays in use.

        Args:
            running: what is served now.
            says_all: whether to report also what cannot be read again, because somebody has asked for the reload.

        If cancelled, nothing has changed.

        Raises:
            ConfigurationError: the configuration file cannot be used, or the connection string of a new entry in it.
                The message says where. Nothing has changed.
        """
        entries = self._entries
        args = self._args
        if self.file is not None:
            entries, args = await self._thread(str(self.file)).run(self._read_config)
            self._watched = entries
        self._dial_files = dial_files(args)
        has_front_options = "front_users_file" in args  # only those of a forward
        if has_front_options:
            self._users_file = args.front_users_file
        options: list[DialOptions] = []
        fronts: list[FrontOptions] = []
        found: dict[int, Wanted] = {}

        async def read_dial() -> None:
            read = partial(read_dial_options, args, again=True)
            options.append(await self._thread(_DIAL_FILES).run(read))

        async def read_fronts() -> None:
            read = partial(read_front_options, args, again=True)
            fronts.append(await self._thread(str(self._users_file)).run(read))

        async def read_entry(number: int, entry: Entry) -> None:
            if (one := await self._read_entry(entry, running, says_all=says_all)) is not None:
                found[number] = one

        reads: list[Callable[[], Awaitable[None]]] = [read_dial]
        if has_front_options:
            reads.append(read_fronts)
        reads += [partial(read_entry, number, entry) for number, entry in enumerate(entries)]
        await side_by_side(reads)
        wanted = [found[number] for number in sorted(found)]
        placed = with_own_addresses(wanted, running)
        if has_front(args):
            check_names_for_fronts(placed, running)
        self._entries = entries
        for key in self._unreadable.keys() - {entry.key for entry in entries}:
            del self._unreadable[key]
        return Reading(
            placed,
            options[0],
            args,
            is_complete=not self._unreadable,
            fronts=fronts[0] if fronts else None,
        )

    def _read_config(self) -> tuple[tuple[Entry, ...], argparse.Namespace]:
        assert self.file is not None
        args = copy.copy(self._given)
        apply_config_file(args, self.file, regular=True)
        entries = entries_of(args)
        self.watch.note(entry.path for entry in entries if entry.path is not None)
        return entries, args

    def needs_restart(self, args: argparse.Namespace, parts: OptionParts) -> tuple[str, ...]:
        """Return the keys in the configuration file that have changed, and take effect only after a restart.

        Args:
            args: the options that were read (`Reading.args`).
            parts: what can be changed besides what is served.
        """
        return tuple(changed_options(self._args, args, but=_SERVED | parts.options))

    async def _read_entry(self, entry: Entry, running: Mapping[Key, Running], *, says_all: bool) -> Wanted | None:
        """Read the connection string of an entry; None if there is nothing to serve."""
        now = running.get(entry.key)
        if entry.path is None:
            if now is None and self.file is not None:
                remedy = "name the files with the connection strings, in tables [[connection]]"
                if entry.file is None:
                    raise ConfigurationError(f"{self.file} names no connection string", remedy=remedy)
                text = "standard input can be read only when the program starts"
                raise entry.error(ConfigurationError(text, remedy=remedy))
            if says_all:
                detail = f"{describe_source(entry.file)} cannot be read again: a change needs a restart"
                plainly_logged_events().publish(ReloadSkipped(detail=detail))
            return None if now is None else Wanted(entry, None)
        try:
            string = await self._thread(str(entry.path)).run(self._load_again, str(entry.path))
        except ConfigurationError as exc:
            if now is None and entry.where:
                raise entry.error(exc) from exc
            if says_all or str(self._unreadable.get(entry.key, "")) != str(exc):
                publish_not_reloaded(exc)
            self._unreadable[entry.key] = exc
            return None if now is None else Wanted(entry, None)
        self._unreadable.pop(entry.key, None)
        return Wanted(entry, string)

    def _load_again(self, path: str) -> ConnectionString:
        string = self.copies.newest(load_again(path, self._role))
        if self._marks is not None:
            self._marks.warn_if_older(string)
        return string

    def _thread(self, file: str) -> FileThread:
        return self._threads.setdefault(file, FileThread(file))
