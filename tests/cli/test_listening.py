"""A port that cannot be listened on: what is said, by whom."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from hybridrelay._listening import explain_listen_error

from .conftest import Created, Run


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "port", "says"),
    [
        (errno.EADDRINUSE, 5432, "find out who has it with"),
        (errno.EADDRINUSE, 50_000, "may be an outgoing connection"),
        (errno.EACCES, 80, "ports below 1024 need a privilege"),
        (errno.EADDRNOTAVAIL, 5432, "that an interface of this machine has"),
        (errno.EMFILE, 5432, "choose another"),
    ],
)
@pytest.mark.parametrize("addresses", [1, 2], ids=["one", "several"])
def test_what_can_be_done(number: int, port: int, says: str, addresses: int) -> None:
    error = _error(number)
    if addresses > 1:
        error = OSError("failed to bind")
        error.__cause__ = ExceptionGroup("", [_error(number)] * addresses)
    text, remedy = explain_listen_error(error, port, otherwise="or choose another")

    assert text == (os.strerror(number) if addresses == 1 or number != errno.EMFILE else "failed to bind")
    assert says in remedy
    assert remedy.endswith("choose another" if number == errno.EMFILE else ", or choose another")


@pytest.mark.parametrize("command", ["forward", "relay"])
def test_a_port_that_is_taken(run: Run, created: Created, tmp_path: Path, command: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        if command == "forward":
            result = run(command, "--connection-string-file", created.application, "--listen", address)
        else:
            ports = f"probe={address},control=0,data=0,http=0,https=0"
            result = run(command, "--state", tmp_path / "another", "--host", "127.0.0.1", "--ports", ports)

    assert (result.code, result.out) == (2, "")
    error, remedy = result.err.splitlines()
    assert f"cannot listen on {address}: {os.strerror(errno.EADDRINUSE)}" in error
    assert remedy.startswith("  try: find out who has it with ")
