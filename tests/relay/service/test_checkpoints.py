"""Checkpoints of audit logs that wait for the file."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.audit.chain import checkpoint_message
from hybridrelay.audit.keys import SigningKey
from hybridrelay.events import EventStream
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.service import checkpoints as module
from hybridrelay.relay.service.checkpoints import CheckpointService
from hybridrelay.relay.store.checkpoints import CheckpointFile

KEY = SigningKey.generate()


def witness(number: int) -> control.Witness:
    at, head = "2026-11-30T05:00:00.000Z", "ab" * 32
    signature = KEY.sign(checkpoint_message(number, head, at))
    return control.Witness(number, "db", "0f" * 8, number, head, at, str(KEY.public), signature)


async def test_few_wait_for_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones are refused at once, and those that wait are kept."""
    monkeypatch.setattr(module, "_MAX_WAITING", 3)
    service = CheckpointService(tmp_path, clock=time.time, events=EventStream())
    answers = threading.Event()
    keep = CheckpointFile.keep

    def slow(*args: object, **options: object) -> None:
        answers.wait(60)
        keep(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointFile, "keep", slow)
    got: list[control.Witnessed | control.Failed] = []

    async def ask(number: int) -> None:
        got.append(await service.keep(witness(number), "a" * 32, "192.0.2.1", for_client=False))

    try:
        async with trio.open_nursery() as nursery:
            for number in range(1, 4):
                nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(60):
                await ask(4)
            assert [(one.id, type(one)) for one in got] == [(4, control.Failed)]
            (refused,) = got
            assert isinstance(refused, control.Failed)
            assert refused.reason is Reason.BUSY
            answers.set()
        await ask(5)
    finally:
        answers.set()
        await service.finish()
    assert {one.id for one in got if isinstance(one, control.Witnessed)} == {1, 2, 3, 5}
