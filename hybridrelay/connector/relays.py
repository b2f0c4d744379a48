"""The relays of a connector, and the hybrid connections that it registers at each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import trio

from .._nursery import FlatNursery
from ..connectivity.endpoint import RelayEndpoint
from ..connectivity.link import RelayLink, usable_links
from ..connectivity.snapshot import RelaySnapshot
from ..errors import ConfigurationError, HybridRelayError
from ..events.connector import EarlierRegistrationKept, RegistrationReplaced, RegistrationWithdrawn
from ..events.stream import EventStream
from ..security import ConnectionString
from .published import Publication, Published
from .registrar import Registrar

__all__ = ["Links", "Relays"]

#: What identifies a link: the relay's host, its ports and its pins.
_LinkKey: TypeAlias = tuple[str, frozenset[tuple[str, int | None]], tuple[str, ...]]
#: The links to the relays of one connection string.
Links: TypeAlias = Mapping[_LinkKey, RelayLink]


class Relays:
    """The relays at which a connector registers, with one link and one `Registrar` for each.

    Connection strings that name the same relay share its link, and therefore its control channel.

    Args:
        new_link: makes the link to a relay. Raises `ConfigurationError` if the relay cannot be used.
        new_registrar: makes the registrar of a relay.
        changed: called when a hybrid connection was registered, refused or lost at a relay.
        events: the stream to which events are published.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        *,
        new_link: Callable[[RelayEndpoint], RelayLink],
        new_registrar: Callable[[RelayLink, Callable[[], None]], Registrar],
        changed: Callable[[], None],
        events: EventStream,
        clock: Callable[[], float],
    ) -> None:
        self._new_link = new_link
        self._new_registrar = new_registrar
        self._changed = changed
        self._events = events
        self._clock = clock
        self._published: list[Published] = []
        self._links: dict[_LinkKey, RelayLink] = {}
        self._registrars: dict[RelayLink, Registrar] = {}
        #: Set, and replaced by a new event, whenever a registration has changed.
        self._change = trio.Event()
        #: Runs registrars and data channels; None before `run` and after it.
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Keep everything registered, and serve the data channels that the relays offer, until cancelled."""
        async with FlatNursery() as self._nursery:
            try:
                for registrar in self._registrars.values():
                    self._nursery.start_soon(registrar.run, self._nursery)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def wait_changed(self) -> None:
        """Wait until a hybrid connection is registered, refused or lost at a relay."""
        await self._change.wait()

    # --- what is registered, and where

    def find_links(
        self, published: Published, string: ConnectionString, *, instead_of: Published | None = None
    ) -> Links:
        """Return links to the relays that a connection string names: existing and new ones. Changes nothing.

        Args:
            published: the hybrid connection of this string.
            string: the connection string.
            instead_of: a hybrid connection that is withdrawn before this one is published.

        Raises:
            ConfigurationError: no relay can be used, or another connection string is for the same hybrid connection
                at one of these relays.
        """
        found: dict[_LinkKey, RelayLink] = {}

        def link_to(endpoint: RelayEndpoint) -> RelayLink:
            key = (endpoint.host, frozenset(endpoint.ports.items()), endpoint.pins)
            found[key] = self._links.get(key) or self._new_link(endpoint)
            return found[key]

        usable_links(RelayEndpoint.all_from(string, clock=self._clock), link_to, self._events)
        others = [one for one in self._published if one not in (published, instead_of) and one.name == published.name]
        taken = {publication.link.host for one in others for publication in one.publications}
        for link in found.values():
            if link.host in taken:
                raise ConfigurationError(f"two connection strings are for {published.name} at {link.host}")
        return found

    def publish(self, published: Published, links: Links) -> None:
        """Register a hybrid connection at the relays of these links. Its registrations at other relays end once they
        are replaced."""
        if published not in self._published:
            self._published.append(published)
        for publication in list(published.publications):
            if publication.link not in links.values():
                published.publications.remove(publication)
                published.retiring.append(publication)
                if self._nursery is not None:
                    self._nursery.start_soon(self._retire, publication)
        for key, link in links.items():
            if link not in self._registrars:
                self._add(key, link)
            known = self._registrars[link].find(published.name)
            if known is None:
                self._registrars[link].publish(published)
            elif known in published.retiring:  # the string names this relay again before the registration has ended
                published.retiring.remove(known)
                published.publications.append(known)
        for publication in published.retiring:
            publication.is_kept = False
        for registrar in self._registrars.values():
            registrar.check_replacement()

    def withdraw(self, published: Published) -> None:
        """End the registrations of a hybrid connection at all relays. Its sessions continue."""
        self._published.remove(published)
        ending = [*published.publications, *published.retiring]
        published.publications.clear()
        published.retiring.clear()
        for publication in ending:
            self._unpublish(publication)
        self._registration_changed()  # ends the tasks that wait for something to replace a registration

    def _unpublish(self, publication: Publication) -> None:
        """End one registration. With the last one at a relay, its registrar and its link end, too."""
        link = publication.link
        registrar = self._registrars[link]
        registrar.unpublish(publication)
        if registrar.has_stopped and self._registrars.get(link) is registrar:
            del self._registrars[link]
            self._links = {key: other for key, other in self._links.items() if other is not link}

    def snapshots(self, published: Published) -> tuple[RelaySnapshot, ...]:
        """Return the state of a hybrid connection at each of its relays, including those that it is about to
        leave."""
        return tuple(
            self._registrars[one.link].snapshot(one) for one in (*published.publications, *published.retiring)
        )

    def transports(self) -> set[str]:
        """Return the transports that may be used."""
        return {name for link in self._registrars for name in link.transports}

    def _add(self, key: _LinkKey, link: RelayLink) -> None:
        self._links[key] = link
        self._registrars[link] = self._new_registrar(link, self._registration_changed)
        if self._nursery is not None:
            self._nursery.start_soon(self._registrars[link].run, self._nursery)

    def update(self, published: Published) -> None:
        """Register a hybrid connection again at every relay, because its connection string has changed."""
        for publication in published.publications:
            self._registrars[publication.link].update(published)

    async def _retire(self, publication: Publication) -> None:
        """End a registration that the string no longer names, once another one has replaced it.

        If the string still names the same host (with other pins or ports, which may be wrong), only a registration at
        that host replaces it, otherwise one at any relay.
        """
        published, link = publication.published, publication.link
        while publication in published.retiring:
            successors = [one for one in published.publications if one.link.host == link.host]
            if any(one.state.is_registered for one in successors or published.publications):
                break
            failure = next((one.state.failure for one in successors if one.state.failure is not None), None)
            if publication.state.is_registered and failure is not None and not publication.is_kept:
                publication.is_kept = True
                self._registrars[link].check_replacement()
                self._events.publish(_earlier_registration_kept(publication, failure))
            await self.wait_changed()
        else:
            return
        published.retiring.remove(publication)
        self._unpublish(publication)
        kind = RegistrationReplaced if successors else RegistrationWithdrawn
        self._events.publish(kind(connection=published.name, host=link.host))

    def _registration_changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()
        self._changed()

    # --- all relays

    def check_channels(self, link: RelayLink) -> None:
        """Check the control channels to this relay, because a data channel through it was lost."""
        if registrar := self._registrars.get(link):  # the string may no longer name this relay
            registrar.check_channels()

    def check_refusals(self) -> None:
        """Repeat at every relay the requests that it refused a while ago."""
        for registrar in self._registrars.values():
            registrar.check_refusals()

    def network_changed(self) -> None:
        """Note that this machine was suspended, or has changed networks."""
        for registrar in self._registrars.values():
            registrar.network_changed()

    def stop(self) -> None:
        """Close all control channels. The relays then make no more offers."""
        for registrar in self._registrars.values():
            registrar.stop()


def _earlier_registration_kept(publication: Publication, failure: HybridRelayError) -> EarlierRegistrationKept:
    return EarlierRegistrationKept(
        connection=publication.published.name,
        host=publication.link.host,
        reason=failure.reason,
        detail=str(failure),
        remedy=failure.remedy or "",
    )
