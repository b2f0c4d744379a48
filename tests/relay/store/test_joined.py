"""The file of joined rendezvous: what is saved is read again, and a damaged file is replaced."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hybridrelay.relay.joined import MAX_KEEP, Batch, Entry
from hybridrelay.relay.store.joined import JOINED_FILE, JoinedFile


@pytest.fixture
def file(tmp_path: Path) -> Iterator[JoinedFile]:
    with closing(JoinedFile(tmp_path)) as file:
        yield file


def entry(number: int, *, connection: str = "db", keep: float = 60.0) -> Entry:
    return Entry(f"{number:032x}", connection, 1000.0 + number, keep)


def reopened(file: JoinedFile) -> JoinedFile:
    file.close()
    return file


def test_what_was_saved_is_read_again(file: JoinedFile) -> None:
    assert file.load().entries == []
    assert file.load().seen_at == 0.0
    file.save(
        Batch(
            (
                entry(1),
                entry(2),
                entry(3),
            )
        ),
        10.0,
    )
    file.save(Batch((entry(4, connection="é" * 260),), (entry(2).id,)), 11.5)
    saved = reopened(file).load()
    assert saved.entries == [entry(1), entry(3), entry(4, connection="é" * 260)]
    assert saved.seen_at == 11.5
    file.save(Batch((entry(5),), is_whole=True), 12.0)
    assert reopened(file).load().entries == [entry(5)]
    assert file.set_aside is None
    assert file.file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE joined SET id = 'x'",
        "UPDATE joined SET connection = ''",
        "UPDATE joined SET connection = NULL",
        "UPDATE joined SET joined_at = -1.0",
        "UPDATE joined SET joined_at = 'soon'",
        "UPDATE joined SET keep = NULL",
        "UPDATE relay SET seen_at = 'never'",
        "PRAGMA user_version = 99",
    ],
)
def test_a_damaged_file_is_set_aside(file: JoinedFile, change: str) -> None:
    file.save(Batch((entry(1),)), 10.0)
    file.close()
    with closing(sqlite3.connect(file.file.path)) as database:
        database.execute(change)
        database.commit()
    assert file.load().entries == []
    assert file.set_aside is not None
    assert file.set_aside[0].name == JOINED_FILE + ".damaged"
    file.save(Batch((entry(2),)), 11.0)
    assert reopened(file).load().entries == [entry(2)]


def test_no_time_in_the_file_is_longer_than_a_worker_keeps_pairs(file: JoinedFile) -> None:
    file.save(Batch((entry(1, keep=1e300),)), 10.0)
    assert [one.keep for one in file.load().entries] == [MAX_KEEP]
