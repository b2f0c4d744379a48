"""The versions and the environment of programs."""

from __future__ import annotations

import pytest

from benchmarks.environment import find_version
from benchmarks.programs import environment

_RATHOLE = """\
rathole
Build Timestamp:     2026-11-29T19:38:23.112444296Z
Build Version:       0.5.0
Commit SHA:          None
cargo Target Triple: x86_64-unknown-linux-gnu
"""


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (_RATHOLE, "0.5.0"),
        ("wstunnel-cli 10.6.2\n", "10.6.2"),
        ("1.12-rc-44310b6\n", "1.12-rc-44310b6"),
        ("0.70.1\n", "0.70.1"),
        ("HAProxy version 2.6.12-1 2023/12/16 - https://haproxy.org/\n", "2.6.12-1"),
        ("OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19 27 Jan 2026\n", "9.2p1"),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1\n", "7.0.15"),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0)\n", "15.18"),
        ("usage: program\n", "unknown"),
    ],
)
def test_a_programs_version_is_found_in_its_output(output: str, version: str) -> None:
    assert find_version(output) == version


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "no_proxy"])
def test_no_program_of_the_suite_is_told_of_a_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://192.0.2.1:3128")
    monkeypatch.setenv("KEPT", "yes")
    assert name not in environment()
    assert environment()["KEPT"] == "yes"
