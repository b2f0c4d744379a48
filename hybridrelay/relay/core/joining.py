"""Finding a listener for a sender: which one is asked, what follows from its answer, and their rendezvous. Pure.

`join.py` has the states of one join. The outputs are those of the broker; see `broker.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Generic

from ...errors import RendezvousError
from ...events.base import Event
from ...events.relay import ListenerChosen, ListenerDeclined, ListenerSilent, SenderJoining, SenderRefused
from ...protocol.reasons import Reason
from ...security import Right
from .authorization import Authorization, Grant
from .choice import Choice, SessionCounts
from .commands import AskListener, CheckListener, Command, JoinFailed, JoinMade, JoinStep
from .holders import Holder
from .join import RELAYED_REASONS, Answer, Join
from .listener import HandleT, Listener
from .listeners import ListenerTable
from .quotas import Quotas
from .rendezvous import Ended, RendezvousTable, Stopping

__all__ = ["Joins"]


class Joins(Generic[HandleT]):
    """The joins of a relay.

    Args:
        authorization: the hybrid connections and keys that are known now.
        listeners: the registered listeners.
        rendezvous: the rendezvous, with their tickets and data channels.
        quotas: the limits that administrators have set.
        session_counts: how many sessions each listener has at this relay.
        holder_secret: 32 random bytes, from which the names of holders are computed.
        max_asked: how many listeners are asked for one join at most.
        output: called with each command and event.
        ended: called with each rendezvous that was displaced.
        withdraw: ends a rendezvous that is no longer needed.
    """

    def __init__(
        self,
        authorization: Authorization,
        listeners: ListenerTable[HandleT],
        rendezvous: RendezvousTable,
        quotas: Quotas,
        session_counts: SessionCounts,
        *,
        holder_secret: bytes,
        max_asked: int,
        output: Callable[[Command[HandleT] | Event], None],
        ended: Callable[[Ended | Stopping], None],
        withdraw: Callable[[str, float], None],
    ) -> None:
        self._authorization = authorization
        self._listeners = listeners
        self._rendezvous = rendezvous
        self._quotas = quotas
        self._session_counts = session_counts
        self._holder_secret = holder_secret
        self._max_asked = max_asked
        self._output = output
        self._ended = ended
        self._withdraw = withdraw

    def begin(
        self,
        grant: Grant,
        wanted: str | None,
        address: str,
        *,
        avoid: Collection[str] = (),
        instance: str = "",
        now: float,
    ) -> JoinStep[HandleT]:
        """Begin to find a listener for a sender that has the right to it.

        Args:
            grant: the right of the sender, and its key.
            wanted, avoid, instance: see `Join`.
            address: the address of the sender.
            now: the time.

        Returns:
            `AskListener`, to be carried out and reported with `answered` or `cancel`; or `JoinFailed`.
        """
        self._output(SenderJoining(connection=grant.connection.name, peer=address))
        join: Join[HandleT] = Join(grant, wanted, tuple(avoid), Holder(grant.key, address), instance)
        name = join.connection
        try:
            for_session = self.may_be_for_session(name, instance, wanted, now)
            self._quotas.check_session(name, self._rendezvous.count(name), now, for_session=for_session)
        except RendezvousError as exc:
            return self._fail(join, exc.reason, str(exc))
        return self._choose(join, now)

    def answered(self, ask: AskListener[HandleT], answer: Answer, now: float, *, reason: Reason) -> JoinStep[HandleT]:
        """Continue a join after a listener has answered, or has not answered in time.

        Args:
            ask: the request to which it answers.
            answer: `Answer.ACCEPTED`, `DECLINED`, `TIMEOUT` or `LOST`.
            now: the time.
            reason: why the listener has declined; ignored for other answers.

        Returns:
            `JoinMade` or `JoinFailed`, which end the join; or `AskListener` for the next listener.
        """
        join, listener = ask.join, ask.listener
        applied = join.apply(answer)
        assert applied, f"{answer} in {join.state}"
        if answer is Answer.ACCEPTED:
            return JoinMade(join.sender_ticket, listener.instance, ask.rendezvous_id)
        join.why = Reason.LISTENER_SILENT
        facts = {"connection": join.connection, "activity_id": ask.rendezvous_id, "instance": listener.instance}
        if answer is Answer.DECLINED:
            join.why = RELAYED_REASONS.get(reason, Reason.LISTENER_DECLINED)
            self._output(ListenerDeclined(**facts, reason=reason))
        elif answer is Answer.TIMEOUT:
            self._output(ListenerSilent(**facts))
            self._output(CheckListener(listener))
        self._withdraw(ask.rendezvous_id, now)
        # An offer that was lost with a control channel is repeated, if the instance has another control channel.
        if answer is Answer.DECLINED or not self._is_replaced(listener):
            join.passed_over.add(listener.instance)
        return self._choose(join, now)

    def cancel(self, ask: AskListener[HandleT], now: float) -> None:
        """End a join whose sender no longer waits."""
        if ask.join.apply(Answer.CANCELLED):
            self._withdraw(ask.rendezvous_id, now)

    def _choose(self, join: Join[HandleT], now: float) -> JoinStep[HandleT]:
        name, key = join.connection, join.grant.key
        if join.asked >= self._max_asked:
            return self._fail(join, join.why)
        # The key may have been revoked, or its rule have lost the right, while a listener was asked.
        if reason := self._authorization.why_not(key, Right.SEND):
            return self._fail(join, reason)
        choice: Choice[HandleT] | None = None
        if join.wanted is None:
            passed_over = join.passed_over.union(join.avoid)
            choice = self._listeners.choose(name, passed_over=passed_over, sessions=self._session_counts.of)
            listener = None if choice is None else choice.listener
        else:
            listener = None if join.passed_over else self._listeners.find(name, join.wanted)
        if listener is None:
            why = join.why if join.passed_over else self._listeners.why_not(name, join.wanted)
            avoids = why is Reason.NO_LISTENER and any(self._listeners.find(name, one) for one in join.avoid)
            return self._fail(join, why, "the client avoids those that are registered" if avoids else "")
        try:
            made = self._rendezvous.create(name, listener.key, join.sender, now, instance=join.instance)
        except RendezvousError as exc:
            return self._fail(join, exc.reason, str(exc))
        for ended in made.displaced:
            self._ended(ended)
        self._session_counts.began(made.id, name, listener.instance)
        if choice is not None:
            self._listeners.count_choice(choice)
        if choice is not None and choice.candidates > 1:
            self._output(
                ListenerChosen(
                    connection=name,
                    activity_id=made.id,
                    instance=listener.instance,
                    why=choice.why.value,
                    sessions=choice.sessions,
                    candidates=choice.candidates,
                    healthy=choice.healthy,
                )
            )
        join.apply(Answer.CHOSEN)
        join.asked += 1
        join.listener, join.rendezvous_id, join.sender_ticket = listener, made.id, made.sender_ticket
        return AskListener(join, listener, made.id, made.listener_ticket, self._holder_name(join.sender))

    def _fail(self, join: Join[HandleT], reason: Reason, detail: str = "") -> JoinFailed:
        join.apply(Answer.NO_LISTENER)
        self._output(
            SenderRefused(connection=join.connection, peer=join.sender.address, reason=reason, detail=detail)
        )
        return JoinFailed(reason, detail)

    def _is_replaced(self, listener: Listener[HandleT]) -> bool:
        successor = self._listeners.find(listener.connection, listener.instance)
        return successor is not None and successor.handle is not listener.handle

    def _holder_name(self, holder: Holder) -> str:
        """Return the name for `control.Offer.holder`. It reveals neither the key nor the address."""
        key = holder.key
        text = f"{key.connection}\n{key.rule}\n{key.slot}\n{key.generation}"
        parts = (text, f"{text}\nnetwork\n{holder.network}", f"{text}\naddress\n{holder.address}")
        return "/".join(
            hashlib.blake2b(part.encode(), key=self._holder_secret, digest_size=8).hexdigest() for part in parts
        )

    def may_be_for_session(self, connection: str, instance: str, wanted: str | None, now: float) -> bool:
        """Return whether a join may be for an existing session: to resume or move a session, clients ask for its
        listener."""
        if wanted is None:
            return False
        return now < self._quotas.lenient_until or self._rendezvous.has_pair(connection, instance, now)
