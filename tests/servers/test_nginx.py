"""curl against a real nginx, through relay, connector and forward."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Site, WebServer, find, run

BIG_BYTES = 20_000_000


@pytest.fixture(scope="module")
def url(site: Site, nginx: WebServer, mode: str) -> Iterator[str]:
    with site.forward("nginx", nginx.port, mode) as port:
        yield f"http://127.0.0.1:{port}"


def curl(*arguments: str | Path) -> str:
    return run([find("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", *arguments])


def test_get_a_small_file(url: str, nginx: WebServer) -> None:
    (nginx.root / "small").write_text("hello over there\n")
    assert curl(f"{url}/small") == "hello over there\n"


def test_get_a_big_file(url: str, nginx: WebServer, tmp_path: Path) -> None:
    data = os.urandom(BIG_BYTES)
    (nginx.root / "big").write_bytes(data)
    curl("-o", tmp_path / "got", f"{url}/big")
    assert hashlib.sha256((tmp_path / "got").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_several_requests_on_one_connection(url: str, nginx: WebServer) -> None:
    for n in range(5):
        (nginx.root / f"n{n}").write_text(f"number {n}\n")
    answer = curl("-w", "%{num_connects}\n", *(f"{url}/n{n}" for n in range(5)))
    lines = answer.splitlines()
    assert lines[::2] == [f"number {n}" for n in range(5)]
    assert lines[1::2] == ["1", "0", "0", "0", "0"], "the connection was kept open"


def test_the_body_of_a_post_arrives_completely(url: str) -> None:
    assert curl("-X", "POST", "--data-binary", "a" * 5000, f"{url}/length") == "5000"


def test_put_a_big_file(url: str, nginx: WebServer, tmp_path: Path) -> None:
    data = os.urandom(BIG_BYTES)
    (tmp_path / "file").write_bytes(data)
    curl("-T", tmp_path / "file", f"{url}/put")
    assert hashlib.sha256((nginx.root / "put").read_bytes()).digest() == hashlib.sha256(data).digest()
