"""Reads the configuration file of a relay, at its start and again at SIGHUP."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import trio

from .._file_thread import FileThread
from ..errors import ConfigurationError
from ..events.plain_log import plainly_logged_events
from ..events.program import OptionsReloaded, OptionsUnchanged, RestartNeeded
from ..management import LastReload
from .config_file import apply_config_file, changed_options, use_config_file
from .file_stamps import POLL_SECONDS, Stamp, stamp_of
from .option_parts import Changes, OptionParts
from .reloading import publish_not_reloaded

__all__ = ["RelayConfiguration"]

#: A reload is given up when the file has changed at each of this many looks, `POLL_SECONDS` apart.
_MAX_LOOKS = 20


class RelayConfiguration:
    """The options of a relay, and its configuration file.

    Args:
        args: the options of the command line. Those in the configuration file are added to them.
        clock: returns seconds since 1970.
        look: returns the current stamp of a file. It is called in a thread.

    Raises:
        ConfigurationError: the file cannot be used. The message says where.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        *,
        clock: Callable[[], float] = time.time,
        look: Callable[[Path], Stamp] = stamp_of,
    ) -> None:
        self._given = copy.copy(args)
        use_config_file(args)
        #: The options that are in use: those with which the relay was started, except those that were changed since.
        self.args = args
        self._file: Path | None = args.config
        self._thread = FileThread(str(args.config))
        self._clock = clock
        self._look = look
        #: The last reload; None before the first one, and if there is no file.
        self.last_reload: LastReload | None = None

    async def read_again(self, parts: OptionParts) -> None:
        """Read the file again, and use the options that can be changed while the relay runs. Options that need a
        restart are reported each time, because somebody has asked for the reload; if nothing has changed, that is
        reported, too. What cannot be used is published, and stays as it was.

        Args:
            parts: the options that can be changed, to which the new values are applied.
        """
        if self._file is None:
            return
        needs_restart: list[str] = []
        try:
            again = await self._read_complete(self._file)
        except ConfigurationError as exc:
            changes = Changes((), (exc,))
        else:
            changes = await parts.change(again)
            needs_restart = changed_options(self.args, again, but=parts.options)
        events, file = plainly_logged_events(), str(self._file)
        for failure in changes.failures:
            publish_not_reloaded(failure)
        if changes.changed:
            events.publish(OptionsReloaded(file=file, changed=changes.changed))
        if needs_restart:
            events.publish(RestartNeeded(file=file, changed=tuple(needs_restart)))
        if not (changes.failures or changes.changed or needs_restart):
            events.publish(OptionsUnchanged(file=file))
        self.last_reload = LastReload(
            at=self._clock(),
            file=file,
            failures=tuple((str(one), one.remedy) for one in changes.failures),
            needs_restart=tuple(needs_restart),
        )

    async def _read_complete(self, file: Path) -> argparse.Namespace:
        """Read the file once it is the same at two looks in a row, and thus not in the middle of being written: what
        is missing at its end would be taken for defaults, such as the default ports on all addresses.

        Raises:
            ConfigurationError: the file cannot be used, or still changes after `_MAX_LOOKS` looks.
        """
        stamp = await self._thread.run(self._look, file)
        for _ in range(_MAX_LOOKS):
            await trio.sleep(POLL_SECONDS)
            before, stamp = stamp, await self._thread.run(self._look, file)
            if stamp == before:
                return await self._thread.run(self._read, file)
        raise ConfigurationError(f"{file} is still being written", remedy="reload again when it is complete")

    def _read(self, file: Path) -> argparse.Namespace:
        args = copy.copy(self._given)
        apply_config_file(args, file, regular=True)
        if args.state is None:
            # The relay could not start with this file. It may be empty for a moment, while somebody replaces it.
            raise ConfigurationError(
                f"{file} no longer names the state directory: it may be incomplete",
                remedy="write the whole file, with state, and put it in place of the old one with mv",
            )
        return args
