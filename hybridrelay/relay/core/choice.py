"""Chooses the listener that is offered a rendezvous. Pure.

Listeners that have declined this rendezvous, have not answered, or are avoided by the sender are *passed over*: they
are not among the candidates.

Candidates that report that they cannot connect to their target are *unhealthy*, and are *left out*. If all are
unhealthy, none is left out: a report may be out of date, and must not make a hybrid connection unavailable. All
others are healthy, including those that report nothing.

The rules for the candidates that remain, of which the first one that applies decides:

| there are | chosen is | `ChoiceReason` |
|---|---|---|
| no candidates | none | |
| one candidate, and others were left out | this one | ONLY_HEALTHY |
| one candidate | this one | ONLY |
| several, and others were passed over | one key in one network is drawn, and then one of its candidates | DRAWN |
| several, and a coin shows heads | any | RANDOM |
| several, and it shows tails | one with the fewest sessions, as this relay counts them | FEWEST_SESSIONS |

The relay counts the sessions itself, so that a listener cannot state a false number. It can still end its sessions
immediately, in order to have few. Because of the coin, each of n candidates is still offered at least 1/(2n) of all
rendezvous on average, whatever the others do, and a candidate that always has the fewest sessions is offered at most
1/2 + 1/(2n). A listener that falsely reports an unhealthy target loses rendezvous itself, and takes none from
others. One that falsely reports a healthy target gains some only while the targets of others are unhealthy.

If others were passed over, one pair of a key and a network (`network_of`) is drawn among those that the candidates
have, with equal probability, and then one of its candidates. So listeners with one key in one network that all
decline cannot use up all attempts of a sender.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic

import attrs

from .holders import network_of
from .listener import HandleT, Listener

__all__ = ["Choice", "ChoiceReason", "Chosen", "SessionCounts", "choose_listener"]


class ChoiceReason(enum.StrEnum):
    """Why a listener was chosen."""

    #: No other one was left to choose from.
    ONLY = "only"
    #: All other candidates are unhealthy.
    ONLY_HEALTHY = "only-healthy"
    #: No other candidate that is not left out has fewer sessions.
    FEWEST_SESSIONS = "fewest-sessions"
    #: At random, among all candidates that are not left out.
    RANDOM = "random"
    #: At random, after others have declined or have not answered, or because the sender avoids them.
    DRAWN = "drawn"


@attrs.frozen
class Choice(Generic[HandleT]):
    """The listener that was chosen, and why."""

    listener: Listener[HandleT]
    why: ChoiceReason
    #: How many sessions it has at this relay.
    sessions: int
    #: How many listeners there were to choose from, and how many of them are healthy. If none is, one of them was
    #: chosen anyway.
    candidates: int
    healthy: int


@attrs.define
class Chosen:
    """How often a listener was chosen, by reason, since it registered; and the last reason."""

    counts: Counter[ChoiceReason] = attrs.field(factory=Counter[ChoiceReason])
    last: ChoiceReason | None = None

    def count(self, why: ChoiceReason) -> None:
        """Count a choice."""
        self.counts[why] += 1
        self.last = why


def choose_listener(
    candidates: Sequence[Listener[HandleT]],
    *,
    sessions: Callable[[Listener[HandleT]], int],
    is_unhealthy: Callable[[Listener[HandleT]], bool] = lambda _listener: False,
    has_passed_over: bool,
    randbelow: Callable[[int], int],
) -> Choice[HandleT] | None:
    """Choose a listener for a rendezvous.

    Args:
        candidates: the listeners that can be chosen.
        sessions: returns how many sessions a listener has at this relay.
        is_unhealthy: returns whether a listener reports that its target is unhealthy.
        has_passed_over: whether other listeners were passed over for this rendezvous, and are not in `candidates`.
        randbelow: returns a random number that is at least 0 and less than its argument.

    Returns:
        The choice; None if there are no candidates.
    """
    if not candidates:
        return None
    every, healthy = len(candidates), [one for one in candidates if not is_unhealthy(one)]
    candidates = healthy or candidates
    among: Sequence[Listener[HandleT]]
    if len(candidates) == 1:
        among, why = candidates, ChoiceReason.ONLY if every == 1 else ChoiceReason.ONLY_HEALTHY
    elif has_passed_over:
        groups: dict[Hashable, list[Listener[HandleT]]] = {}
        for one in candidates:
            groups.setdefault((one.key, network_of(one.address)), []).append(one)
        among, why = list(groups.values())[randbelow(len(groups))], ChoiceReason.DRAWN
    elif randbelow(2):
        among, why = candidates, ChoiceReason.RANDOM
    else:
        fewest = min(map(sessions, candidates))
        among, why = [one for one in candidates if sessions(one) == fewest], ChoiceReason.FEWEST_SESSIONS
    chosen = among[randbelow(len(among))]
    return Choice(chosen, why, sessions(chosen), every, len(healthy))


class SessionCounts:
    """How many sessions each listener has at this relay. A rendezvous counts as one as soon as it is created."""

    def __init__(self) -> None:
        self._of: Counter[tuple[str, str]] = Counter()
        #: The listener of each rendezvous: its hybrid connection and instance.
        self._by_rendezvous: dict[str, tuple[str, str]] = {}

    def began(self, rendezvous_id: str, connection: str, instance: str) -> None:
        """Count a rendezvous, whose id is new."""
        self._by_rendezvous[rendezvous_id] = connection, instance
        self._of[connection, instance] += 1

    def ended(self, rendezvous_id: str) -> None:
        """Stop counting a rendezvous. Does nothing if its id is not known."""
        at = self._by_rendezvous.pop(rendezvous_id, None)
        if at is None:
            return
        self._of[at] -= 1
        if not self._of[at]:
            del self._of[at]

    def of(self, listener: Listener[HandleT]) -> int:
        """Return the number of sessions of a listener."""
        return self._of[listener.connection, listener.instance]

    def __len__(self) -> int:
        """Return the number of sessions of all listeners."""
        return len(self._by_rendezvous)
