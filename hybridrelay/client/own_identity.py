"""The identity that a client uses: warnings before it expires, and its renewal."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from ..connectivity.expiry import ExpiryNotices, credentials_of, watch_expiry
from ..connectivity.new_keys import KeepString
from ..connectivity.snapshot import CredentialSnapshot, FailureSnapshot
from ..connectivity.string_files import renewed_in_own_file
from ..events.stream import EventStream
from ..security import ConnectionString, Role
from .use_renewed import UseRenewed

if TYPE_CHECKING:
    from .issuing import Connects
    from .renewal import Renewer

__all__ = ["OwnIdentity"]

#: Uses a renewed identity, as `Renewer` needs it.
_Use: TypeAlias = Callable[[ConnectionString, ConnectionString], Awaitable[None]]


class OwnIdentity:
    """Watches and renews the identity in a client's connection string.

    Args:
        string: returns the connection string that is in use.
        use: makes the client use a renewed identity; see `Renewer`.
        keep_string, use_renewed, renews_identity: see `ClientConfig`.
        shares_file: whether another program that uses the same file may renew the identity there.
        events: the stream to which events are published.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        string: Callable[[], ConnectionString],
        use: _Use,
        *,
        keep_string: KeepString,
        shares_file: bool,
        use_renewed: UseRenewed | None,
        renews_identity: bool,
        events: EventStream,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._string = string
        self._use: _Use = use if use_renewed is None else partial(_pass_on, use_renewed)
        self._keep_string = keep_string
        self._shares_file = shares_file
        self._is_passed_on = use_renewed is not None
        self._renews_identity = renews_identity
        self._events = events
        self._clock = clock
        self._credentials = credentials_of(string())
        #: Renews the identity; None if it is not renewed.
        self.renewer: Renewer | None = None
        self._renewal_scope = trio.CancelScope()

    def credentials(self) -> tuple[CredentialSnapshot, ...]:
        """Return what expires in the connection string."""
        now, error = self._clock(), None if self.renewer is None else self.renewer.failure
        failure = None if error is None else FailureSnapshot.of(error)
        return tuple(one.snapshot(now, failure) for one in self._credentials)

    def changed(self) -> None:
        """Note that the connection string in use has another identity."""
        self._credentials = credentials_of(self._string())

    async def watch_expiry(self) -> None:
        """Publish an event before the identity expires, until cancelled."""
        await watch_expiry(lambda: self._credentials, ExpiryNotices(), self._events, self._clock)

    async def renew(self, client: Connects) -> None:
        """Renew the identity whenever it is due, if an issuer has signed it, until cancelled or `stop` is called.

        If another client uses the renewed identity (`use_renewed`), return after the first renewal.

        Args:
            client: reaches the connectors of the hybrid connection with the identity in use.
        """
        identity, _ = self._string().require_identity()
        if not self._renews_identity or identity.issuer is None or identity.role is not Role.APPLICATION:
            return
        from .issuing import request_identity  # imported here, because most clients do not need them
        from .renewal import Renewer

        self.renewer = Renewer(
            self._string,
            partial(request_identity, client),
            self._keep_string,
            self._use,
            self._events,
            renewed_elsewhere=renewed_in_own_file if self._shares_file else None,
            clock=self._clock,
        )
        with self._renewal_scope:
            await self.renewer.run()
            while not self._is_passed_on:
                await self.renewer.run()

    def stop(self) -> None:
        """End the renewal: it may be waiting for a session, and there will not be one."""
        self._renewal_scope.cancel()


async def _pass_on(use: UseRenewed, before: ConnectionString, after: ConnectionString) -> None:
    use(before, after)
