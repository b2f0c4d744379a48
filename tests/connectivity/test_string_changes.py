"""What relays send to change a connection string: to whom it goes, and how much of it."""

from __future__ import annotations

from typing import cast

from trio.testing import MockClock

from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.endpoint import RelayEndpoint
from hybridrelay.connectivity.string_changes import StringChanges
from hybridrelay.connectivity.updates import MAX_AT_ONCE
from hybridrelay.events import EventStream
from hybridrelay.protocol import control
from hybridrelay.protocol.control import KeptState, UpdateState
from hybridrelay.security import generate_key

from .test_updates import NOW, PIN, STRING, TARGET, Program

HERE, ELSEWHERE = (RelayEndpoint(host, {}, (PIN,)) for host in ("a.example", "b.example"))
KEY = generate_key()
NEW_KEY = control.Key("orders", STRING.key_name, 2, KEY.reveal())


class Changing(Program):
    """A program that notes what it stores, uses and answers."""

    def changes(self) -> StringChanges:
        return StringChanges(
            lambda: self.string,
            use_key=self.use,
            use_update=self.use,
            why_not=lambda _: self.why_not,
            new_link=self.relays.link,
            keep=self.keep,
            floor=None,
            clock=lambda: NOW,
            events=EventStream(self.events.append),
        )

    async def send(self, answer: control.UpdateKept | control.KeyKept) -> None:
        self.steps.append(answer.state)

    async def handle(self, changes: StringChanges, given: control.Key | control.Update) -> None:
        handle = changes.handler(cast(ControlChannel, self), HERE, given, [])
        assert handle is not None
        await handle()


async def test_keys_and_updates_are_stored_answered_and_used(autojump_clock: MockClock) -> None:
    program = Changing()
    changes = program.changes()
    await program.handle(changes, TARGET)
    await program.handle(changes, NEW_KEY)
    assert program.string.key == KEY
    assert program.string.target is not None
    assert str(program.string.target) == "db2:1", "the key has not undone the update"
    assert [one for one in program.steps if isinstance(one, UpdateState | KeptState)] == [
        UpdateState.KEPT, KeptState.KEPT
    ]  # fmt: skip
    status = changes.update_status
    assert status is not None
    assert (status.sequence, status.state) == (5, "used")


async def test_too_many_updates_of_one_relay_are_ignored_and_no_keys(autojump_clock: MockClock) -> None:
    channel, changes = cast(ControlChannel, None), Changing().changes()
    handlers = [changes.handler(channel, HERE, TARGET, []) for _ in range(MAX_AT_ONCE + 1)]

    assert [one is None for one in handlers] == [*[False] * MAX_AT_ONCE, True]
    assert changes.handler(channel, ELSEWHERE, TARGET, []) is not None
    assert changes.handler(channel, HERE, NEW_KEY, []) is not None
