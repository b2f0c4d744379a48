"""What a connector publishes, and at which relays."""

from __future__ import annotations

import attrs

from ..connectivity.data import EndToEnd
from ..connectivity.link import RelayLink
from ..security import ConnectionString
from .registration import Registration, RelayIdentity
from .unproven import Unproven


class Published:
    """One hybrid connection as this connector publishes it, at every relay of its connection string."""

    def __init__(self, string: ConnectionString) -> None:
        self.string = string
        self.name = string.entity_path
        self.target = string.require_target()
        self.end_to_end = EndToEnd.from_connection_string(string)
        self.publications: list[Publication] = []
        #: Over links that the connection string names no longer; they stay until another registration replaces them.
        self.retiring: list[Publication] = []

    def use(self, string: ConnectionString) -> None:
        """Go on with another connection string, as `update_string` has made it: the identity is the same."""
        self.string, self.target = string, string.require_target()

    @property
    def has_settled(self) -> bool:
        """Every relay at which it is registered knows it by the present key, and there is one."""
        registered = [one.state for one in self.publications if one.state.is_registered]
        return bool(registered) and all(one.key == self.string.key for one in registered)

    @property
    def is_registered(self) -> bool:
        """Some relay leads clients here."""
        return any(one.state.is_registered for one in self.publications)

    @property
    def is_refused(self) -> bool:
        """Every relay has refused the string."""
        return all(one.state.is_refused for one in (*self.publications, *self.retiring))

    def registered_at(self, relay: RelayIdentity) -> Publication | None:
        """Where it is registered at this relay, whatever the host name by which the relay was reached."""
        found = (one for one in self.publications if one.state.is_registered and one.state.relay == relay)
        return next(found, None)


@attrs.define(eq=False)
class Publication:
    """One hybrid connection at one relay."""

    published: Published
    link: RelayLink
    #: As the registration machine of that relay has it.
    state: Registration
    #: Data channels whose other end has not proved its identity; see `MAX_UNPROVEN_CHANNELS`.
    unproven: Unproven = attrs.field(factory=Unproven)
