"""Reads the configuration file of a relay, at its start and again at SIGHUP."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

from .._file_thread import FileThread
from ..events.plain_log import plainly_logged_events
from ..events.program import RelayOptionsReloaded, RestartNeeded
from .config_file import apply_config_file, changed_options, use_config_file

__all__ = ["RelayConfiguration"]

#: The options that can be changed while the relay runs.
_CHANGEABLE = ("proxy_protocol_from", "trusted_proxies", "client_addresses")


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
        #: The options with which the relay was started, except those that were changed since.
        self.args = args
        self._file: Path | None = args.config
        self._thread = FileThread(str(args.config))

    async def read_again(self) -> bool:
        """Read the file again, and change in `args` what can be changed while the relay runs. What needs a restart is
        reported each time, because somebody has asked for the reload.

        Returns:
            Whether `args` has changed.

        Raises:
            ConfigurationError: the file cannot be used. Nothing was changed.
        """
        if self._file is None:
            return False
        again = await self._thread.run(self._read, self._file)
        every = changed_options(self.args, again)
        needs_restart = changed_options(self.args, again, but=_CHANGEABLE)
        changed = tuple(name for name in every if name not in needs_restart)
        for dest in _CHANGEABLE:
            setattr(self.args, dest, getattr(again, dest))
        events = plainly_logged_events()
        if changed:
            events.publish(RelayOptionsReloaded(file=str(self._file), changed=changed))
        if needs_restart:
            events.publish(RestartNeeded(file=str(self._file), changed=tuple(needs_restart)))
        return bool(changed)

    def _read(self, file: Path) -> argparse.Namespace:
        args = copy.copy(self._given)
        apply_config_file(args, file, regular=True)
        return args
