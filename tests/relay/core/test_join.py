"""The table of joins."""

from __future__ import annotations

import pytest

from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.authorization import Grant
from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.core.join import RELAYED_REASONS, TRANSITIONS, Answer, Join, JoinState
from hybridrelay.relay.model import HybridConnection, KeyId
from hybridrelay.security import KeySlot

GRANT = Grant(HybridConnection("db", (), (), 0.0, {}), KeyId("db", "sender", KeySlot.PRIMARY, 1), 0.0)


@pytest.mark.parametrize("answer", Answer, ids=str)
@pytest.mark.parametrize("state", JoinState, ids=str)
def test_every_answer_in_every_state(state: JoinState, answer: Answer) -> None:
    join: Join[None] = Join(GRANT, None, (), Holder(GRANT.key), state=state)
    assert join.apply(answer) == ((state, answer) in TRANSITIONS)
    assert join.state is TRANSITIONS.get((state, answer), state)


def test_a_join_ends_once() -> None:
    ends = {JoinState.JOINED, JoinState.OVER}
    assert not ends & {before for before, _ in TRANSITIONS}
    assert ends <= set(TRANSITIONS.values())


def test_no_reason_that_a_listener_gives_is_permanent_for_a_sender() -> None:
    assert not any(reason.is_permanent for reason in RELAYED_REASONS.values())


def test_a_listener_that_is_busy_has_reached_a_limit() -> None:
    """From this reason, the client knows that waiting may help."""
    assert RELAYED_REASONS[Reason.BUSY] is RELAYED_REASONS[Reason.LIMIT] is Reason.LIMIT
