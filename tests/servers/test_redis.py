"""redis-cli and redis-benchmark against a real Redis, through relay, connector and forward."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from .conftest import Site, find, run


@pytest.fixture(scope="module")
def port(site: Site, redis: int, mode: str) -> Iterator[int]:
    with site.forward("redis", redis, mode) as port:
        yield port


def cli(port: int, *arguments: str, text_in: str = "") -> str:
    return run([find("redis-cli"), "-h", "127.0.0.1", "-p", str(port), *arguments], text_in=text_in).strip()


def test_values_are_kept(port: int) -> None:
    assert cli(port, "PING") == "PONG"
    assert cli(port, "SET", "greeting", "hello") == "OK"
    assert cli(port, "GET", "greeting") == "hello"


def test_a_pipeline_of_ten_thousand_commands(port: int) -> None:
    cli(port, "DEL", "counter")
    answer = cli(port, "--pipe", text_in="INCR counter\r\n" * 10_000)
    assert "errors: 0, replies: 10000" in answer
    assert cli(port, "GET", "counter") == "10000"


def test_benchmark_with_pipelines(port: int) -> None:
    report = run(
        [
            find("redis-benchmark"), "-h", "127.0.0.1", "-p", str(port), "-q", "--csv",
            "-n", "5000", "-c", "20", "-P", "16", "-d", "512", "-t", "set,get",
        ]
    )  # fmt: skip
    print(report)
    assert re.search(r'^"SET","\d', report, re.MULTILINE)
    assert re.search(r'^"GET","\d', report, re.MULTILINE)
