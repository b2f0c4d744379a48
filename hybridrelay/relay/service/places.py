"""Creating the `Places` of a relay, with Trio's clock and the system's randomness."""

from __future__ import annotations

import secrets

import trio

from ..core.places import Places
from ..limits import (
    CONTROL_CHANNELS_PER_KEY,
    ESTABLISHED_AFTER_SECONDS,
    OPEN_RENDEZVOUS,
    OPEN_RENDEZVOUS_PER_SENDER_KEY,
)
from .listener_handle import ListenerHandle

__all__ = ["places_for_control_channels", "places_for_open_rendezvous", "places_for_pairs"]


def places_for_pairs(total: int, *, per_connection: int | None = None, per_key: int | None = None) -> Places[str]:
    """Make places for pairs of data channels that are joined or may become joined; see `Places` for the arguments.

    A place is established when the listener has reported that the sender has proved its identity, because a session
    then depends on the pair.
    """
    return Places(
        "data channels",
        total,
        clock=trio.current_time,
        randbelow=secrets.randbelow,
        per_connection=per_connection,
        per_key=per_key,
        spares_established=True,
        established_after=ESTABLISHED_AFTER_SECONDS,
    )


def places_for_open_rendezvous() -> Places[str]:
    """Make places for open rendezvous (those with an unused ticket). These places are never established."""
    return Places(
        "rendezvous that have not been joined",
        OPEN_RENDEZVOUS,
        clock=trio.current_time,
        randbelow=secrets.randbelow,
        per_key=OPEN_RENDEZVOUS_PER_SENDER_KEY,
    )


def places_for_control_channels(total: int) -> Places[ListenerHandle]:
    """Make places for control channels that a key has authorized; see `Places` for the argument.

    A place is established while something is registered over the channel, and for a while after a listener has
    accepted a join. Sessions do not depend on control channels.
    """
    return Places(
        "control channels",
        total,
        clock=trio.current_time,
        randbelow=secrets.randbelow,
        per_key=min(total, CONTROL_CHANNELS_PER_KEY),
    )
