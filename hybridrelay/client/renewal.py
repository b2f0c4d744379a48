"""Renewing the identity of an application: when (pure), and the task that does it.

| state | what is done |
|---|---|
| before two thirds of the identity's life | wait |
| after that | ask a connector, after a random part of a hundredth of its life, so that not all ask at the same time |
| another program has renewed it in the same file in the meantime | use the renewed identity |
| an attempt has failed | try again after up to a minute, then up to twice as long each time, up to six hours |
| it has expired | the same: perhaps a clock is wrong; the log and the status say what to do |
| there is a new one, which cannot be used yet | the same; the earlier one stays in use |

The new private key is made here. It stays the same until an attempt succeeds.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import attrs
import trio

from ..connectivity.new_keys import NO_FILE, KeepString
from ..errors import HybridRelayError
from ..events.identities import IdentityNotRenewed, IdentityRenewed
from ..events.stream import EventStream
from ..protocol.issuing import Issued
from ..security import (
    ConnectionString,
    Identity,
    IdentityDetails,
    Role,
    Secret,
    check_issued_untrusted,
    new_private_key,
)
from ..security.building_certificates import BACKDATE_SECONDS

__all__ = ["Renewer", "is_renewable", "renew_at", "retry_wait"]

T = TypeVar("T")

_FIRST_RETRY_SECONDS = 60.0
_LONGEST_RETRY_SECONDS = 6 * 3600.0
#: How often to look at the clock, which may be set, or may have stopped while the machine was suspended (seconds).
_CHECK_SECONDS = 600.0


def is_renewable(identity: Identity) -> bool:
    """Return whether an identity is to be renewed: it is an application's, and an issuer has signed it."""
    return identity.issuer is not None and identity.role is Role.APPLICATION


def renew_at(details: IdentityDetails) -> float:
    """Return when an identity is due: at two thirds of its life, in seconds since 1970."""
    issued_at = min(details.not_before + BACKDATE_SECONDS, details.not_after)
    return issued_at + (details.not_after - issued_at) * 2 / 3


def retry_wait(failures: int, chance: float) -> float:
    """Return how long to wait after a failed attempt (seconds).

    Args:
        failures: how many attempts have failed, one at least.
        chance: a random number in [0, 1).
    """
    longest = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 20))
    return longest * (0.5 + chance / 2)


class Renewer:
    """Renews the identity of one client.

    Args:
        string: returns the connection string that is in use.
        request: asks a connector for an identity for a key; see `request_identity`.
        keep: stores the changed connection string; None means that it is only in memory.
        use: uses it in place of the earlier one; it may raise `HybridRelayError`, and is then called again.
        events: the stream to which events are published.
        renewed_elsewhere: returns the identity that another program has stored for this connection string, if it has
            renewed it; None: no other program can do so.
        clock: returns seconds since 1970.
        chance: returns a random number in [0, 1).
    """

    def __init__(
        self,
        string: Callable[[], ConnectionString],
        request: Callable[[Secret], Awaitable[Issued]],
        keep: KeepString | None,
        use: Callable[[ConnectionString, ConnectionString], Awaitable[None]],
        events: EventStream,
        *,
        renewed_elsewhere: Callable[[ConnectionString], Awaitable[Identity | None]] | None = None,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._string = string
        self._request = request
        self._keep = keep
        self._use = use
        self._events = events
        self._renewed_elsewhere = renewed_elsewhere
        self._clock = clock
        self._chance = chance
        #: Why the last attempt has failed; None if it has not.
        self.failure: HybridRelayError | None = None

    async def run(self) -> None:
        """Renew the identity once it is due, and return when the new one is in use."""
        identity, _ = self._string().require_identity()
        if not is_renewable(identity):
            return
        details = identity.details
        due = renew_at(details)
        spread = (details.not_after - due) / 33  # a hundredth of its life
        await self._wait_until(due + spread * self._chance())
        renewed = await self._until_it_succeeds(partial(self._renewed, new_private_key()))
        before = self._string()
        after = attrs.evolve(before, identity=renewed)
        await self._until_it_succeeds(
            partial(self._use, before, after), prefix="the renewed identity cannot be used yet: "
        )

    async def _until_it_succeeds(self, attempt: Callable[[], Awaitable[T]], *, prefix: str = "") -> T:
        failures = 0
        while True:
            try:
                result = await attempt()
            except HybridRelayError as exc:
                failures += 1
                self.failure = exc
                wait = retry_wait(failures, self._chance())
                identity, _ = self._string().require_identity()
                self._events.publish(
                    IdentityNotRenewed(
                        connection=self._string().entity_path,
                        label=identity.label,
                        not_after=identity.details.not_after,
                        reason=exc.reason,
                        detail=f"{prefix}{exc}",
                        remedy=exc.remedy or "",
                        retry_seconds=round(wait, 1),
                    )
                )
                await trio.sleep(wait)
            else:
                self.failure = None
                return result

    async def _wait_until(self, due: float) -> None:
        while True:
            remaining = due - self._clock()
            if remaining <= 0:
                return
            await trio.sleep(min(remaining, _CHECK_SECONDS))

    async def _renewed(self, key: Secret) -> Identity:
        """Make one attempt to get a new identity, and store it.

        Raises:
            HybridRelayError: there is no connector, it refuses, or its answer cannot be used.
        """
        string = self._string()
        if self._renewed_elsewhere is not None:
            stored = await self._renewed_elsewhere(string)
            if stored is not None:
                self._say_renewed(stored, why="another program has renewed it in the same file", kept=True)
                return stored
        identity, authority = string.require_identity()
        issued = await self._request(key)
        check_issued_untrusted(
            issued,
            authority,
            identity.details.name,
            key,
            now=self._clock(),
            lasts_until=identity.details.not_after,
        )
        renewed = Identity(issued.certificate, key, issued.issuer)
        before = self._string()
        after = attrs.evolve(before, identity=renewed)
        why = NO_FILE if self._keep is None else await self._keep(before, after)
        self._say_renewed(renewed, why=why, kept=not why)
        return renewed

    def _say_renewed(self, renewed: Identity, *, why: str, kept: bool) -> None:
        self._events.publish(
            IdentityRenewed(
                connection=self._string().entity_path,
                label=renewed.label,
                serial=renewed.serial,
                not_after=renewed.details.not_after,
                kept=kept,
                detail=why,
            )
        )
