"""The limit of open descriptors: it is raised as far as possible, and some descriptors are kept in reserve."""

from __future__ import annotations

import errno
import sys

import pytest

from hybridrelay._descriptors import (
    descriptor_limit,
    is_reserved,
    missing_descriptors,
    raise_descriptor_limit,
    reserved_descriptors,
)

from .descriptors import few_descriptors


def test_where_there_is_no_such_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert raise_descriptor_limit() is None


INFINITE = -1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("soft", "hard", "possible", "now"),
    [
        (1024, 4096, 4096, 4096),
        (4096, 4096, 4096, 4096),
        (256, INFINITE, 10240, 10240),
        (20000, INFINITE, 10240, 20000),
        (INFINITE, INFINITE, 10240, INFINITE),
        (1024, 65536, 20000, 10240),
        (1024, 65536, 0, 1024),
        (1024, 4096, 0, 1024),
    ],
)
def test_raised_as_far_as_it_goes(
    soft: int, hard: int, possible: int, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    assert resource.RLIM_INFINITY == INFINITE
    limit = [soft, hard]

    def setrlimit(which: int, wanted: tuple[int, int]) -> None:
        if wanted[0] == INFINITE or wanted[0] > possible or 0 <= wanted[1] < wanted[0]:
            raise ValueError
        limit[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limit))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_descriptor_limit() == now
    assert limit == [now, hard]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_of_this_process_is_raised() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("limit", "reserved"), [(1 << 20, 64), (1024, 64), (256, 64), (64, 16), (3, 0)])
def test_some_are_reserved(limit: int, reserved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay._descriptors.descriptor_limit", lambda: limit)
    assert reserved_descriptors(limit) == reserved
    assert not is_reserved(limit - reserved - 1)
    assert is_reserved(limit - reserved)


def test_without_a_limit_none_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert descriptor_limit() is None
    assert not is_reserved(1 << 30)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_whether_files_can_be_opened() -> None:
    assert missing_descriptors(4) is None
    with few_descriptors(3):
        assert missing_descriptors(3) is None
        missing = missing_descriptors(4)
        assert missing is not None
        assert missing.errno == errno.EMFILE
        assert missing_descriptors(3) is None  # none of them stays open
