"""When a file counts as changed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay import _file_thread
from hybridrelay.cli.file_stamps import Stamp, stamp_of
from hybridrelay.cli.serving import watching
from hybridrelay.cli.serving.watching import Changes, FileWatch

from ...waiting import async_wait_until

A = Path("a")


@pytest.mark.parametrize(
    ("noted", "looks", "changed_at"),
    [
        (1, [1, 1, 1], []),
        (1, [2, 2, 2], [1]),
        # It is being written.
        (1, [2, 3, 4, 4, 4], [3]),
        # It changes, and is soon as it was.
        (1, [2, 1, 1], []),
        (1, [2, 2, 1, 1], [1, 3]),
        # It changes between the time when it was noted and the first look.
        (1, [2, 2], [1]),
        # It was not noted before: from the first look on.
        (None, [2, 2, 3, 3], [3]),
    ],
)
def test_a_change_is_noticed_once_and_not_if_it_was_noted(
    noted: int | None, looks: list[int], changed_at: list[int]
) -> None:
    changes = Changes()
    if noted is not None:
        changes.note({A: (noted,)})
    assert [index for index, look in enumerate(looks) if changes.look({A: (look,)})] == changed_at


@given(st.lists(st.integers(0, 3), min_size=1))
def test_what_stays_is_noticed_once(looks: list[int]) -> None:
    """Whatever a file goes through, the last content that stays is reported, and reported once."""
    changes, seen = Changes(), (0,)
    changes.note({A: (0,)})
    for look in [*looks, looks[-1], looks[-1]]:
        if changes.look({A: (look,)}):
            assert seen != (look,)
            seen = (look,)
    assert seen == (looks[-1],)
    assert not changes.look({A: seen})


def test_a_file_that_is_no_longer_watched_is_forgotten() -> None:
    changes = Changes()
    changes.note({A: (1,)})
    changes.look({})
    assert [changes.look({A: (2,)}), changes.look({A: (2,)})] == [frozenset(), frozenset()]


def test_a_file_that_cannot_be_looked_at_counts_as_it_was() -> None:
    changes = Changes()
    changes.note({A: (1,)})
    rounds: list[dict[Path, Stamp]] = [{}, {A: (2,)}, {}, {A: (2,)}]
    looks = [changes.look(stamps, silent={A} - stamps.keys()) for stamps in rounds]
    assert looks == [frozenset(), frozenset(), frozenset(), frozenset([A])]


def test_a_stamp_differs_if_the_file_or_a_link_above_it_was_replaced(tmp_path: Path) -> None:
    """A file, and one to which a link in a directory above leads, as in Kubernetes."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "string").write_text("same size")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "string").symlink_to("..data/string")
    stamps: list[Stamp] = [stamp_of(tmp_path / "string")]
    (tmp_path / "..new").symlink_to("..2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    stamps.append(stamp_of(tmp_path / "string"))
    (tmp_path / "string").unlink()
    stamps.append(stamp_of(tmp_path / "string"))
    assert len(set(stamps)) == 3
    assert len(stamps[2]) == 1
    # What can be read only once is never read again.
    os.mkfifo(tmp_path / "pipe")
    assert stamp_of(tmp_path / "pipe") == ()


async def test_a_watch_tells_each_change(tmp_path: Path, nursery: trio.Nursery) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    watch, heard = FileWatch(lambda: [file]), []
    told, tell = trio.open_memory_channel[None](10)

    async def changed() -> None:
        heard.append(file.read_text())
        await told.send(None)

    watch.note([file])
    file.write_text("22")
    nursery.start_soon(watch.run, changed)
    with trio.fail_after(60):
        await tell.receive()
        file.write_text("333")
        await tell.receive()
    assert heard == ["22", "333"]
    nursery.cancel_scope.cancel()


async def test_a_file_that_hangs_holds_up_no_other(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes of files before and after it are noticed while it hangs, and its own once it answers again."""
    files = [tmp_path / name for name in ("before", "hangs", "after", "hangs too")]
    for file in files:
        file.write_text("1")
    before, hanging, after, hanging_too = files
    answers = threading.Event()
    reported: list[str] = []

    def look(path: Path) -> Stamp:
        if path in (hanging, hanging_too):
            answers.wait(60)
        return stamp_of(path)

    told, tell = trio.open_memory_channel[None](10)

    async def changed() -> None:
        await told.send(None)

    watch = FileWatch(lambda: files)
    watch.note(files)
    monkeypatch.setattr(_file_thread, "FILE_SECONDS", 0.05)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watching, "stamp_of", look)
    both_reported = trio.Event()

    def report(exc: Exception) -> None:
        reported.append(str(exc))
        if len(reported) == 2:
            both_reported.set()

    async def forgotten() -> bool:
        return hanging not in watch._apart

    monkeypatch.setattr(watching, "publish_not_reloaded", report)
    try:
        nursery.start_soon(watch.run, changed)
        with trio.fail_after(60):
            for file in (before, after):
                file.write_text("22")
                await tell.receive()
            # What is known is not looked at again, so this does not hang either.
            watch.note(files)
            await both_reported.wait()
            hanging.write_text("333")
            answers.set()
            await tell.receive()
            assert hanging in watch._apart
            files.remove(hanging)
            await async_wait_until(forgotten, seconds=20, what="a file that is no longer watched")
    finally:
        answers.set()
    assert {text.split(" cannot be used")[0] for text in reported} >= {str(hanging), str(hanging_too)}
    nursery.cancel_scope.cancel()
