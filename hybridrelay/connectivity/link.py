"""One relay, from the dialing side: the route that works, and control channels under this process's instance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import trio

from .. import _defaults
from ..abc import Dialer, Purpose, Transport
from ..errors import ConfigurationError, HybridRelayError
from ..events.connectivity import BetterRouteRejected, RelayLeftOut, RouteRejected, TLSIntercepted
from ..events.log import logged_events
from ..events.stream import EventStream
from ..protocol import control
from ..security import ConnectionString, Secret, audience_for, make_token
from .backoff import Backoff
from .control import ControlChannel, Introduction, run_control_channel
from .discovery import AUTO, Candidate, candidates, discover
from .doubts import Doubts
from .endpoint import RelayEndpoint
from .instance import OwnInstance, RenewalPace, new_instance
from .network import network_key
from .prober import Prober, RouteChoice
from .proxies.dial import proxy_of, resolve_dialer
from .report import Report
from .snapshot import RouteSnapshot

#: How long a token is valid (seconds). Each request has a new one; a registration lasts until its token expires,
#: unless it is renewed before.
TOKEN_SECONDS = 3600.0

#: While the route in use is not the best, how often a better one is looked for at first (seconds).
UPGRADE_INTERVAL_SECONDS = _defaults.UPGRADE_INTERVAL
#: The longest interval between two such attempts (seconds). A probe costs the relay three connections.
UPGRADE_MAX_INTERVAL_SECONDS = 600.0
#: A better route has to work twice before it is used. The longest time between these two probes (seconds).
UPGRADE_CONFIRM_SECONDS = 5.0
#: If a better route fails within this time after a move to it (seconds), the interval between attempts keeps growing.
UPGRADE_HELD_SECONDS = 300.0
#: For how many networks the route that worked is remembered.
_MAX_NETWORKS = 16


class _Generations:
    """The generations of all control channels of this process. All links share them, since two links may lead to the
    same relay under different names."""

    def __init__(self) -> None:
        #: The highest generation that has been used.
        self.highest = 0

    def next(self) -> int:
        self.highest += 1
        return self.highest


_generations = _Generations()


def make_connection_token(string: ConnectionString, host: str, now: float) -> str:
    """Make a token for the hybrid connection of `string` at the relay `host`. `now` is in seconds since 1970."""
    audience = audience_for(host, string.entity_path)
    return make_token(audience, string.key_name, string.key, now + TOKEN_SECONDS)


def usable_links(
    endpoints: Iterable[RelayEndpoint],
    make: Callable[[RelayEndpoint], RelayLink],
    events: EventStream | None = None,
) -> list[RelayLink]:
    """Return a link to each of a hybrid connection's relays, in their order.

    A relay that serves no port which the mode can use is left out, and an event is published, unless no relay
    remains.

    Args:
        endpoints: the relays.
        make: makes the link to one of them.
        events: the stream to which events are published; None means one that writes them to the log.

    Raises:
        ConfigurationError: no relay can be used.
    """
    links: list[RelayLink] = []
    unusable: list[UnusableRelay] = []
    for endpoint in endpoints:
        try:
            links.append(make(endpoint))
        except UnusableRelay as exc:
            unusable.append(exc)
    if not links:
        raise unusable[0]
    events = logged_events() if events is None else events
    for error in unusable:
        events.publish(RelayLeftOut(detail=str(error), remedy=error.remedy or ""))
    return links


class UnusableRelay(ConfigurationError):
    """A relay serves no port that the mode can use."""


class RelayLink:
    """One relay, from the dialing side. It remembers the route that worked until `forget` is called.

    Args:
        endpoint: the relay.
        role: connector or client.
        instance: the instance of this process.
        mode: ``auto`` or the name of the only transport allowed.
        dialer: opens connections; None means one that uses the proxy that the environment names, if any.
        transports: by name; None means those that are installed.
        upgrade_interval: how soon to look for a better route than the one in use (seconds). The interval then grows.
        events: the stream to which events are published; None means one that writes them to the log.

    Raises:
        UnusableRelay: the relay serves no port that the mode can use.
        ConfigurationError: the mode is unknown, or the environment names an unusable proxy.
    """

    def __init__(
        self,
        endpoint: RelayEndpoint,
        role: control.PeerRole,
        *,
        instance: OwnInstance,
        mode: str = AUTO,
        dialer: Dialer | None = None,
        transports: Mapping[str, Transport] | None = None,
        upgrade_interval: float = UPGRADE_INTERVAL_SECONDS,
        events: EventStream | None = None,
    ) -> None:
        self._events = logged_events() if events is None else events
        transports = discover() if transports is None else transports
        usable = candidates(transports, mode)
        if all(endpoint.missing_ports(candidate.route) for candidate in usable):
            raise UnusableRelay(
                f"the relay {endpoint.host} serves no port that mode {mode} can use",
                remedy="choose another mode, or open the ports at the relay (--ports)",
            )
        self.endpoint = endpoint
        self.dialer = resolve_dialer(dialer)
        self.mode = mode
        #: The report of the last probing by `choose` that has found a route; None before that.
        self.report: Report | None = None
        self._prober = Prober(endpoint, mode=mode, transports=transports, dialer=self.dialer)
        self._candidate: Candidate | None = None
        self._doubts = Doubts()
        #: The route whose data channels have failed, until the next probing, which is thorough; otherwise None.
        self._doubted: Candidate | None = None
        #: The names of routes that failed a thorough check although they had passed a probe. They would pass a probe
        #: again, so all checks are thorough until each of these routes has passed a thorough check and was chosen.
        self._rejected: set[str] = set()
        #: The route that worked in each network. When this machine returns to a network, its route is used without
        #: probing.
        self._worked: dict[tuple[object, ...], Candidate] = {}
        #: The network in which a route was chosen last.
        self._network: tuple[object, ...] = ()
        self._role = role
        #: The instance of this process at this relay.
        self.own_instance = instance
        self._renewal_pace = RenewalPace()
        self._choosing = trio.Lock()
        self._upgrade_interval = upgrade_interval
        #: The names of the transports that the mode allows.
        self.transports = tuple(sorted({candidate.transport.name for candidate in usable}))
        self._best_rank = min(candidate.route.rank for candidate in usable)
        self._network_changed = trio.Event()

    @property
    def host(self) -> str:
        """The relay's host name in the connection string."""
        return self.endpoint.host

    @property
    def remembers(self) -> bool:
        """Whether a route that has worked is remembered."""
        return self._candidate is not None

    @property
    def route(self) -> str | None:
        """The name of the route that is remembered, or None."""
        return None if self._candidate is None else self._candidate.route.name

    @property
    def instance(self) -> str:
        """The instance of this process as the relay knows it."""
        return self.own_instance.id

    def describe(self, candidate: Candidate, purpose: Purpose) -> RouteSnapshot:
        """Return how channels for a purpose reach the relay over a route."""
        route = candidate.route
        port = self.endpoint.number_of(route.port_for(purpose)) or 0
        proxy = proxy_of(self.dialer, self.host, port) if port else None
        return RouteSnapshot(
            name=route.name,
            transport=candidate.transport.name,
            port=port,
            proxy="" if proxy is None else str(proxy),
        )

    async def choose(self) -> Candidate:
        """Return the route to use now: the one that last worked in this network, otherwise the one found by probing.

        Raises:
            NoRouteWorks: no route works; the `report` of the error says why.

        If cancelled, nothing changes, and nothing stays open.
        """
        async with self._choosing:
            if self._candidate is None:
                network = self._network = network_key() or self._network
                candidate = self._worked.get(network)
                if candidate is None:
                    doubted = self._doubted
                    decision = await self._prober.choose(thorough=doubted is not None or bool(self._rejected))
                    self.report, candidate = decision.report, decision.candidate
                    self._doubted = None
                    self._rejected.discard(candidate.route.name)
                    if doubted is not None and candidate != doubted:
                        self._rejected.add(doubted.route.name)
                        self._report_rejection(doubted, decision)
                    self._worked[network] = candidate
                    while len(self._worked) > _MAX_NETWORKS:
                        self._worked.pop(next(iter(self._worked)))
                self._candidate = candidate
            return self._candidate

    def use_key(self, key: Secret) -> None:
        """Use this key for the admission proofs of control channels that are opened from now on."""
        if key != self.endpoint.key:
            self.endpoint = self._prober.endpoint = self.endpoint.with_key(key)

    def forget(self, *, network_changed: bool = False) -> None:
        """Forget the route, because it failed; the next `choose` probes again.

        With `network_changed`, it did not fail, but this machine may be in another network. The route is still
        remembered for the earlier network, and `choose` probes only in a network for which no route is remembered.
        """
        if self._candidate is not None and not network_changed:
            self._worked = {key: one for key, one in self._worked.items() if one != self._candidate}
        self._candidate = None
        if network_changed:
            changed, self._network_changed = self._network_changed, trio.Event()
            changed.set()

    def doubt(self, candidate: Candidate) -> None:
        """Note that a data channel over this route failed in the end-to-end TLS handshake.

        Some firewalls let a probe pass, and reject what follows. So the route is forgotten, and the next `choose`
        checks the data port with a TLS handshake, unless such a check was made a short while ago (`Doubts`): usually
        the other end of the channel was the reason. If the check fails, all later ones include this handshake, until
        the route passes one.
        """
        if self._doubts.failed(trio.current_time()):
            self._doubted = candidate
            if self._candidate == candidate:
                self.forget()

    def _report_rejection(self, doubted: Candidate, decision: RouteChoice) -> None:
        """Publish that a route that had passed a probe has not passed a thorough check."""
        failure = decision.report.failure_of(doubted.route.name)
        self._events.publish(
            RouteRejected(
                host=self.host,
                route=doubted.route.name,
                used=decision.candidate.route.name,
                detail="the check had not ended when another route worked" if failure is None else failure.text,
                remedy="" if failure is None else failure.remedy or "",
            )
        )

    async def upgrade_route(
        self, in_use: Callable[[], Candidate | None], improved: Callable[[Candidate], Awaitable[None]]
    ) -> None:
        """Look for a better route repeatedly, until cancelled, and call `improved` when one works.

        The better route has to work twice, some time apart, so that a port that flaps does not make sessions move
        back and forth. The interval grows while no better route is found, and if one that was found does not last.

        Args:
            in_use: returns the worst route in use, or None. It may differ from the route that `choose` returns now.
            improved: moves everything that uses a worse route to the better one. If it raises `HybridRelayError`, the
                route did not carry traffic although the probe passed, and the earlier one stays in use.
        """
        first = self._upgrade_interval
        backoff = Backoff(
            first_seconds=first,
            max_seconds=max(first, UPGRADE_MAX_INTERVAL_SECONDS),
            min_seconds=first / 2,
            held_seconds=UPGRADE_HELD_SECONDS,
        )
        upgraded_at: float | None = None
        while True:
            current = in_use()
            if current is None or current.route.rank <= self._best_rank:
                # Nothing was probed, so this does not count as an attempt and the interval does not grow.
                await trio.sleep(first / 2)
                continue
            if upgraded_at is not None:
                backoff.succeeded(held_seconds=trio.current_time() - upgraded_at)
                upgraded_at = None
            with trio.move_on_after(backoff.next_wait()):
                await self._network_changed.wait()
                backoff.reset()
                continue
            if in_use() != current or not await self._prober.find_better(current):
                continue
            await trio.sleep(min(first, UPGRADE_CONFIRM_SECONDS))
            better = await self._prober.find_better(current)
            if better is None or in_use() != current:
                continue
            before, self._candidate = self._candidate, better
            self._network = network_key() or self._network
            self._worked[self._network] = better
            try:
                await improved(better)
            except HybridRelayError as exc:
                self._events.publish(BetterRouteRejected(host=self.host, route=current.route.name, detail=str(exc)))
                if self._candidate == better:
                    self.forget()
                    self._candidate = before
            else:
                upgraded_at = trio.current_time()

    async def start_control(self, nursery: trio.Nursery, candidate: Candidate | None = None) -> ControlChannel:
        """Open a control channel whose tasks run in `nursery`.

        Args:
            nursery: runs the channel's tasks. If it is cancelled, the channel is closed.
            candidate: the route. None means the result of `choose`; if that route fails, it is forgotten.

        Raises:
            NoRouteWorks: see `choose`.
            RelayUnreachable, RelayIdentityError: see `run_control_channel`.

        Every step has a deadline. If cancelled, nothing stays open.
        """
        route = await self.choose() if candidate is None else candidate
        introduction = Introduction(self._role, self.own_instance, _generations.next())
        serve = partial(run_control_channel, self.endpoint, route, introduction, dialer=self.dialer)
        try:
            channel: ControlChannel = await nursery.start(serve)
        except HybridRelayError:
            if candidate is None:
                self.forget()
            raise
        if channel.intercepted_by is not None:
            self._report_interception(route, channel.intercepted_by)
        return channel

    def renew_instance(self, superseded: ControlChannel) -> OwnInstance | None:
        """Take a new instance if the relay has replaced `superseded` by a control channel of another process.

        Called when the relay has said that it replaced `superseded`. If no channel of this process has a higher
        generation, another process uses the instance (a copy of this machine, or someone who has obtained the
        secret), and may have stated any generation. Control channels that are opened from now on belong to the new
        instance.

        Returns:
            The new instance; None if the replacement may be a later channel of this process, or if the instance was
            renewed a short while ago (`RenewalPace`).
        """
        if superseded.generation < _generations.highest or not self._renewal_pace.admits(trio.current_time()):
            return None
        self.own_instance = new_instance()
        return self.own_instance

    def _report_interception(self, candidate: Candidate, issuer: str) -> None:
        if self.report is not None:
            self.report = self.report.with_interception(candidate.route.name, issuer)
        self._events.publish(TLSIntercepted(host=self.endpoint.host, issuer=issuer))
