"""The connection string that a client uses, the relays that it names, and how both change while the client runs.

The program changes the connection string (`Client.update`), and so do relays, with a new key or an update
(`connectivity/string_changes.py`). A renewed identity changes it, too, but has no effect on the relays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from ..connectivity.control import ControlChannel
from ..connectivity.data import EndToEnd
from ..connectivity.endpoint import RelayEndpoint
from ..connectivity.link import RelayLink, usable_links
from ..connectivity.snapshot import UpdateStatus
from ..connectivity.string_changes import StringChanges
from ..connectivity.string_keeper import StringKeeper
from ..errors import ConfigurationError
from ..events.stream import EventStream
from ..protocol import control
from ..security import ConnectionString, Identity, StringUpdate, update_string
from .config import ClientConfig
from .relays.relay_connection import RelayConnection
from .relays.relays import Relays

__all__ = ["StringInUse"]


class StringInUse:
    """The connection string of a client.

    Args:
        config: the client's configuration, with the first connection string.
        check: raises `DeniedByPolicy` if the policy of the machine does not allow using a connection string.
        new_link: makes a link to a relay. `upgrade_interval` is added for a relay that is not only tried out.
        new_relay: makes the client's connection to a relay. `on_key_or_update` is added.
        changed: called with each change that is in use now, except changes of the identity.
        nursery: runs the handling of what relays send.
        events: the stream to which events are published.
        clock: returns seconds since 1970.

    Raises:
        ConfigurationError: none of the relays can be used.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        check: Callable[[ConnectionString], None],
        new_link: Callable[..., RelayLink],
        new_relay: Callable[..., RelayConnection],
        changed: Callable[[StringUpdate], None],
        nursery: trio.Nursery,
        events: EventStream,
        clock: Callable[[], float],
    ) -> None:
        #: The connection string.
        self.current = config.string
        self._check = check
        self._new_link = partial(new_link, upgrade_interval=config.upgrade_interval)
        self._new_relay = partial(new_relay, on_key_or_update=self._key_or_update_arrived)
        self._changed = changed
        self._nursery = nursery
        self._events = events
        self._clock = clock
        #: The relays that the connection string names.
        self.relays = Relays(self._find_relays(config.string, ()))
        self._changes = StringChanges(
            lambda: self.current,
            use_key=self._use_key,
            use_update=self.use,
            why_not=self._why_not,
            new_link=new_link,  # with the same instance, so that relays that are tried out recognize this program
            keep=config.keep_string,
            floor=config.update_floor,
            origin=config.origin,
            clock=clock,
            events=events,
        )

    @property
    def keeper(self) -> StringKeeper:
        """Stores what is received for the connection string."""
        return self._changes.keeper

    @property
    def update_status(self) -> UpdateStatus | None:
        """The last update of the connection string; None if there was none."""
        return self._changes.update_status

    def _find_relays(self, string: ConnectionString, known: Sequence[RelayConnection]) -> list[RelayConnection]:
        """Return the relays that a string names; those in `known` are reused. Changes nothing.

        Raises:
            ConfigurationError: none of them can be used.
        """
        by_link = {relay.link: relay for relay in known}

        def link_to(endpoint: RelayEndpoint) -> RelayLink:
            return next((link for link in by_link if link.endpoint == endpoint), None) or self._new_link(endpoint)

        links = usable_links(RelayEndpoint.all_from(string, clock=self._clock), link_to, self._events)
        # A relay that is added at the same time as a new key may not know that key yet.
        earlier = self.current if known else None
        return [by_link.get(link) or self._new_relay(link, string, earlier=earlier) for link in links]

    def use(self, string: ConnectionString) -> StringUpdate:
        """Use a changed connection string from now on, or the same again.

        Returns:
            Which changes are in use now, and which need a restart.

        Raises:
            ConfigurationError: the string cannot be used here. Nothing was changed.
        """
        update = update_string(self.current, string)
        EndToEnd.from_connection_string(string)
        self._check(update.string)
        self._use(update)
        return update

    def use_identity(self, identity: Identity | None) -> None:
        """Use another identity from now on. Everything else stays as it is."""
        self.current = attrs.evolve(self.current, identity=identity)

    def _use_key(self, string: ConnectionString) -> None:
        """Use a connection string that differs only in its key. Neither the policy nor the set of relays depends on
        the key, so this cannot fail. (It must not: the relay was already told that this program has the key.)"""
        self._use(update_string(self.current, string))

    def _use(self, update: StringUpdate) -> None:
        """Use a changed connection string from now on.

        Raises:
            ConfigurationError: none of its relays can be used. Nothing was changed.
        """
        before, relays = self.relays.all, self._find_relays(update.string, self.relays.all)
        # From here on nothing can fail.
        self.current = update.string
        for relay in relays:
            relay.use(update.string)
        self.relays.replace(relays)
        for relay in before:
            if relay not in relays:
                relay.retire_control()
        self._changed(update)

    def _why_not(self, string: ConnectionString) -> str:
        """Return why a changed connection string could not be used; empty if it could."""
        try:
            self._check(string)
            self._find_relays(string, self.relays.all)
        except ConfigurationError as exc:
            return str(exc)
        return ""

    def _key_or_update_arrived(
        self, relay: RelayConnection, channel: ControlChannel, message: control.Key | control.Update
    ) -> None:
        others = [other for other in self.relays.all if other is not relay]
        handle = self._changes.handler(channel, relay.link.endpoint, message, others)
        if handle is not None:
            self._nursery.start_soon(relay.answer, channel, handle)
