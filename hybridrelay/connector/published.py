"""The hybrid connections that a connector serves, and the relays at which it registers them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from ..connectivity.data import EndToEnd
from ..connectivity.expiry import credentials_of
from ..connectivity.link import RelayLink
from ..connectivity.string_changes import StringChanges
from ..policy import Action, Decision, Policy, Resource, resource_of
from ..security import ConnectionString, Target
from ..security.targets import has_datagrams
from .registration import Registration, RelayIdentity
from .targets import check_supported
from .unproven import UnprovenChannels


class Published:
    """One hybrid connection that this connector registers at every relay of its connection string."""

    def __init__(self, string: ConnectionString, *, connects_in_parallel: bool = False) -> None:
        self.string = string
        self.name = string.entity_path
        self.target = check_supported(string.require_target())
        self.end_to_end = EndToEnd.from_connection_string(string)
        #: What expires in the connection string.
        self.credentials = credentials_of(string)
        #: One entry for each relay that the connection string names.
        self.publications: list[Publication] = []
        #: Entries for relays that the connection string no longer names. They stay until another registration
        #: replaces them.
        self.retiring: list[Publication] = []
        #: Handles the changes of the connection string that relays send; None before it is published.
        self.changes: StringChanges | None = None
        #: Whether it is no longer published. Its sessions may continue for a while; no new ones begin.
        self.is_withdrawn = False
        #: Whether connections to the target begin with a PROXY header.
        self.sends_proxy_header = False
        #: Whether the addresses of the target's name are connected to at the same time; see `ConnectorConfig`.
        self.connects_in_parallel = connects_in_parallel
        #: Why the policy does not allow registering it now; None if it does.
        self.denial: Decision | None = None
        #: Why the policy has not allowed the address or path to which the target was resolved last; None if it has,
        #: or has changed since then.
        self.target_denial: Decision | None = None

    def resource(self, target: Target | None = None) -> Resource:
        """Return the resource about which the policy decides: this hybrid connection and its target.

        Args:
            target: the target of an open stream, which may have begun before the target was changed; None means the
                current one.
        """
        return resource_of(self.string, self.target if target is None else target)

    def why_denied(self, policy: Policy) -> Decision | None:
        """Return the decision of the policy against this hybrid connection or its target; None if it is allowed, as
        far as this is known."""
        if self.denial is not None:
            return self.denial
        if (decision := policy.decide(None, Action.PUBLISH, self.resource())).reason is not None:
            return decision
        if has_datagrams(self.target) and (decision := policy.decide_datagrams()).reason is not None:
            return decision
        return self.target_denial

    def use(self, string: ConnectionString) -> None:
        """Continue with a changed connection string (from `update_string`), which has the same identity."""
        self.string, self.target = string, string.require_target()
        self.credentials = credentials_of(string)

    @property
    def uses_current_key(self) -> bool:
        """Whether the hybrid connection is registered at one relay or more, and wherever it is registered, with the
        current key."""
        registered = [one.state for one in self.publications if one.state.is_registered]
        return bool(registered) and all(one.key == self.string.key for one in registered)

    @property
    def is_registered(self) -> bool:
        """Whether the hybrid connection is registered at one relay or more."""
        return any(one.state.is_registered for one in self.publications)

    @property
    def is_refused(self) -> bool:
        """Whether every relay has refused the connection string, as it is now."""
        return all(one.state.is_refused_now for one in (*self.publications, *self.retiring))

    def registered_at(self, relay: RelayIdentity) -> Publication | None:
        """Return the registration at this relay, under whatever host name; None if there is none."""
        found = (one for one in self.publications if one.state.is_registered and one.state.relay == relay)
        return next(found, None)


@attrs.define(eq=False)
class Publication:
    """A hybrid connection at one relay, at which it is registered or is to be registered."""

    published: Published
    link: RelayLink
    #: Its entry in the registration machine of that relay.
    state: Registration
    #: Asks the relay whether it accepts the key of a connection string; see `accepts`.
    check_key: Callable[[Publication, ConnectionString], Awaitable[None]]
    #: Whether it stays although the connection string no longer names its relay, because nothing can replace it now.
    is_kept: bool = False
    #: Data channels whose peer has not proved its identity; see `MAX_UNPROVEN_CHANNELS`.
    unproven: UnprovenChannels = attrs.field(factory=UnprovenChannels, kw_only=True)

    @property
    def host(self) -> str:
        """The relay's host name."""
        return self.link.host

    async def check_accepted(self, string: ConnectionString) -> None:
        """Check whether the relay accepts the key of a connection string.

        Raises:
            HybridRelayError: it does not, or the connector is not registered at this relay now.
        """
        await self.check_key(self, string)
