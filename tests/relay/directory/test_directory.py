"""What every directory does, and how the events of a relay keep one up to date."""

from __future__ import annotations

import pytest

from hybridrelay.events import EventStream, ListenerLeft, ListenerRegistered, StoreReadable
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import Directory, DirectoryEntry, MemoryDirectory
from hybridrelay.relay.directory.record import DirectoryRecorder

ONE, TWO = b"\0\0\0\1", b"\0\0\0\2"
A1, A2, B1 = DirectoryEntry("db", "a", ONE), DirectoryEntry("db", "a", TWO), DirectoryEntry("db", "b", ONE)
OTHER = DirectoryEntry("web", "a", ONE)


@pytest.fixture(params=[MemoryDirectory])
def directory(request: pytest.FixtureRequest) -> Directory:
    made: Directory = request.param()
    return made


def test_what_was_added_is_found_until_it_is_removed(directory: Directory) -> None:
    for entry in (A1, A2, B1, OTHER, A1):
        directory.add(entry)
    assert directory.find("db") == {A1, A2, B1}
    assert directory.find("web") == {OTHER}
    for _ in range(2):
        directory.remove(A1)
    assert directory.find("db") == {A2, B1}
    assert directory.find("nowhere") == frozenset()


def test_what_was_found_does_not_change(directory: Directory) -> None:
    directory.add(A1)
    found = directory.find("db")
    directory.remove(A1)
    assert found == {A1}


def test_the_entries_of_a_relay_that_has_stopped_are_removed(directory: Directory) -> None:
    for entry in (A1, A2, B1, OTHER):
        directory.add(entry)
    directory.remove_relay(ONE)
    assert directory.find("db") == {A2}
    assert directory.find("web") == frozenset()


def test_it_follows_the_events_of_a_relay() -> None:
    directory = MemoryDirectory()
    events = EventStream(DirectoryRecorder(directory, ONE))
    for instance in "ab":
        events.publish(ListenerRegistered(connection="db", instance=instance))
    events.publish(StoreReadable())
    assert directory.find("db") == {A1, B1}
    events.publish(ListenerLeft(connection="db", instance="a", reason=Reason.NO_ERROR))
    assert directory.find("db") == {B1}
