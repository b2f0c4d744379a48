"""Reads the configuration file of a relay, at its start and again at SIGHUP."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

from .._file_thread import FileThread
from ..events.plain_log import plainly_logged_events
from ..events.program import OptionsReloaded, RestartNeeded
from .config_file import apply_config_file, changed_options, use_config_file
from .option_parts import OptionParts

__all__ = ["RelayConfiguration"]


class RelayConfiguration:
    """The options of a relay, and its configuration file.

    Args:
        args: the options of the command line. Those in the configuration file are added to them.

    Raises:
        ConfigurationError: the file cannot be used. The message says where.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._given = copy.copy(args)
        use_config_file(args)
        #: The options that are in use: those with which the relay was started, except those that were changed since.
        self.args = args
        self._file: Path | None = args.config
        self._thread = FileThread(str(args.config))

    async def read_again(self, parts: OptionParts) -> None:
        """Read the file again, and use the options that can be changed while the relay runs. Those that need a
        restart are reported each time, because somebody has asked for the reload.

        Args:
            parts: the options that can be changed, to which the new values are applied.

        Raises:
            ConfigurationError: the file cannot be used. Nothing was changed.
        """
        if self._file is None:
            return
        again = await self._thread.run(self._read, self._file)
        events = plainly_logged_events()
        if changed := await parts.change(again):
            events.publish(OptionsReloaded(file=str(self._file), changed=tuple(changed)))
        if needs_restart := changed_options(self.args, again, but=parts.options):
            events.publish(RestartNeeded(file=str(self._file), changed=tuple(needs_restart)))

    def _read(self, file: Path) -> argparse.Namespace:
        args = copy.copy(self._given)
        apply_config_file(args, file, regular=True)
        return args
