"""Full collections examine new objects only, and still free the cycles of old objects in the end."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from hybridrelay import _collector
from hybridrelay._collector import no_collections, short_collections

RESIDENT_PAGES = _collector._resident_pages


class Node:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No collection happens by itself, and the memory of this process plays no part."""
    monkeypatch.setattr(_collector, "_resident_pages", lambda: 0)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def survivor() -> weakref.ref[Node]:
    """Return a reference to a cycle that has survived a collection, and is no longer used."""
    old = Node()
    gc.collect()
    return weakref.ref(old)


def test_survivors_are_not_examined_again() -> None:
    with short_collections():
        gc.collect()
        old = Node()
        found = weakref.ref(old)
        gc.collect()
        assert gc.get_freeze_count() > 0
        assert all(one is not old for one in gc.get_objects())
        new = weakref.ref(Node())
        del old
        gc.collect()
        assert (new(), found() is None) == (None, False)
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert found() is None


def test_a_program_that_has_grown_examines_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_collector, "_MORE_BLOCKS", 1000)
    with short_collections():
        gc.collect()
        found = survivor()
        gc.collect()
        assert found() is not None
        monkeypatch.setattr(_collector, "_TIMES", 0.9)  # as if there were fewer objects before
        monkeypatch.setattr(_collector, "_MORE_BLOCKS", 0)
        gc.collect()
        assert found() is None
        assert gc.get_freeze_count() > 0, "and the survivors are exempt again"


def test_a_program_that_has_got_more_memory_examines_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds if it has hardly more objects: each of them may hold memory of a library."""
    with short_collections():
        gc.collect()
        found = survivor()
        gc.collect()
        assert found() is not None
        monkeypatch.setattr(_collector, "_resident_pages", lambda: 10_000)
        gc.collect()
        assert found() is None
        found = survivor()
        gc.collect()
        assert found() is not None, "the memory has not grown since"


@pytest.mark.parametrize("of", ["blocks", "pages"])
def test_a_program_that_grows_slowly_examines_everything_in_the_end(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has grown since everything was examined, although little since the last collection."""
    sizes = {"blocks": 0, "pages": 0}
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: sizes["blocks"])
    monkeypatch.setattr(_collector, "_resident_pages", lambda: sizes["pages"])
    with short_collections():
        gc.collect()
        found = survivor()
        limit = {"blocks": _collector._MORE_BLOCKS, "pages": _collector._MORE_PAGES}[of]
        for _ in range(4):
            sizes[of] += limit // 4
            gc.collect()
            assert found() is not None
        sizes[of] += 1
        gc.collect()
        assert found() is None


def test_the_memory_of_this_process() -> None:
    assert (RESIDENT_PAGES() > 1000) == sys.platform.startswith("linux")


#: Objects own memory of the C library. glibc does not return it by itself, as what is kept is behind it in the heap.
MEMORY = """
import gc
from hybridrelay._collector import short_collections

gc.disable()
kept = []

class Node:
    def __init__(self, is_cycle):
        self.me = self if is_cycle else None
        self.memory = b"x" * 60_000

def nodes(is_cycle):
    found = [Node(is_cycle) for _ in range(1_000)]
    kept.append(b"x" * 60_000)
    return found

def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

with short_collections():
    gc.collect()
    at_first = megabytes()
"""


def _memory(program: str) -> list[int]:
    """Run a program that continues `MEMORY`, and return the numbers that it prints."""
    done = subprocess.run([sys.executable, "-c", MEMORY + program], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")


@needs_glibc
def test_the_memory_of_old_cycles_does_not_add_up() -> None:
    """Memory that has been freed is returned to the system, and is not part of the size that is compared."""
    sizes = _memory("""
    for _ in range(10):
        found = nodes(is_cycle=True)
        gc.collect()  # the cycles survive, and are exempt
        found = None
        gc.collect()
        print(megabytes() - at_first)
""")
    assert max(sizes) < 100, sizes


@needs_glibc
def test_memory_that_has_been_freed_is_no_reason_to_examine_everything() -> None:
    before, after, frees_old_cycles = _memory("""
    import weakref
    old = Node(is_cycle=True)
    found = weakref.ref(old)
    gc.collect()
    old = None
    others = nodes(is_cycle=False)
    others = None
    print(megabytes() - at_first)
    gc.collect()
    print(megabytes() - at_first, int(found() is None))
""")
    assert before > 50, "glibc keeps the memory"
    assert (after < 20, frees_old_cycles) == (True, 0)


def test_younger_collections_change_nothing() -> None:
    with short_collections():
        gc.collect(1)
        assert gc.get_freeze_count() == 0


def test_no_collection_happens_while_code_is_loaded_or_examines_it_next() -> None:
    gc.enable()
    with no_collections():
        assert not gc.isenabled()
        loaded = Node()
    assert gc.isenabled()
    found = weakref.ref(loaded)
    del loaded
    gc.collect()
    assert found() is not None
    gc.unfreeze()
    gc.collect()
    assert found() is None


def test_a_collector_that_was_off_stays_off() -> None:
    with no_collections():
        pass
    gc.unfreeze()
    assert not gc.isenabled()
