"""Reads the configuration file of a relay, at its start and again at SIGHUP."""

from __future__ import annotations

import argparse
import copy
import enum
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from .._file_thread import FileThread
from ..errors import ConfigurationError
from ..events.plain_log import plainly_logged_events
from ..events.program import RelayOptionsReloaded, RestartNeeded
from .config_file import apply_config_file, changed_options, use_config_file
from .reloading import publish_not_reloaded

__all__ = ["PARTS", "Part", "RelayConfiguration"]


class Part(enum.Enum):
    """Options that are changed together: either all of them, or none."""

    RELAY = enum.auto()


#: The options that can be changed while the relay runs. All others need a restart.
PARTS: Mapping[Part, frozenset[str]] = {
    Part.RELAY: frozenset(
        {"host", "ports", "public_ports", "websocket_path_prefix", "tls_certificate", "tls_key"}
        | {"proxy_protocol_from", "trusted_proxies", "client_addresses"}
    ),
}


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

    async def read_again(self, use: Mapping[Part, Callable[[argparse.Namespace], Awaitable[None]]]) -> None:
        """Read the file again, and use what can be changed while the relay runs. What needs a restart is reported
        each time, because somebody has asked for the reload.

        Args:
            use: for each part of the options, changes over to other options, or raises `ConfigurationError` and has
                changed nothing. The failure is then reported, and the next reload tries again.

        Raises:
            ConfigurationError: the file cannot be used. Nothing was changed.
        """
        if self._file is None:
            return
        again = await self._thread.run(self._read, self._file)
        events = plainly_logged_events()
        changed: list[str] = []
        for part, dests in PARTS.items():
            wanted = copy.copy(self.args)
            for dest in dests:
                setattr(wanted, dest, getattr(again, dest))
            names = changed_options(self.args, wanted)
            if not names:
                continue
            try:
                await use[part](wanted)
            except ConfigurationError as exc:
                publish_not_reloaded(exc)
                continue
            for dest in dests:
                setattr(self.args, dest, getattr(again, dest))
            changed += names
        if changed:
            events.publish(RelayOptionsReloaded(file=str(self._file), changed=tuple(changed)))
        every = frozenset().union(*PARTS.values())
        if needs_restart := changed_options(self.args, again, but=every):
            events.publish(RestartNeeded(file=str(self._file), changed=tuple(needs_restart)))

    def _read(self, file: Path) -> argparse.Namespace:
        args = copy.copy(self._given)
        apply_config_file(args, file, regular=True)
        return args
