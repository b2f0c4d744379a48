"""A process that has run out of descriptors cannot identify its network, and does not take this for a change."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from hybridrelay.connectivity import network
from hybridrelay.connectivity.network import NetworkState, local_addresses, network_key


def _state(*addresses: tuple[str, ...] | None) -> NetworkState:
    found = iter(addresses)
    return NetworkState(boot=lambda: 0.0, awake=lambda: 0.0, addresses=lambda: next(found))


HOME = ("192.0.2.7",)
TRAIN = ("198.51.100.9",)


@pytest.mark.parametrize(
    ("looks", "changed"),
    [
        ([HOME, HOME, TRAIN, TRAIN], [False, True, False]),
        ([HOME, None, HOME], [False, False]),
        ([HOME, None, TRAIN], [False, True]),
        ([None, HOME, HOME, TRAIN], [False, False, True]),
        ([HOME, (), HOME], [True, True]),
    ],
)
def test_a_change_of_address(looks: list[tuple[str, ...] | None], changed: list[bool]) -> None:
    state = _state(*looks)
    assert [state.look() is not None for _ in changed] == changed


@pytest.mark.parametrize(
    ("number", "found"),
    [(errno.EMFILE, None), (errno.ENOBUFS, None), (errno.ENETUNREACH, ()), (errno.EAFNOSUPPORT, ())],
)
def test_addresses_are_unknown_without_descriptors(
    number: int, found: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", fail)
    assert local_addresses() == found
    assert (network_key() is None) == (found is None)


def test_a_file_that_cannot_be_opened_is_not_an_absent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network._gateways(tmp_path / "absent") == ()

    def fail(*args: object) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "read_text", fail)
    assert network._gateways() is None
