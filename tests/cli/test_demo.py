"""``hybridrelay demo``: it works, it can be stopped, and it leaves nothing behind."""

from __future__ import annotations

import re
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hybridrelay.cli.demo.resource import GREETING

from ..deployments import HYBRIDRELAY, Program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the relay runs on Linux")

#: Two transports, two directions, two seconds each, on a slow machine.
SECONDS = 90.0


def _demo(directory: Path, *arguments: str) -> Program:
    return Program([*HYBRIDRELAY, "demo", *arguments], environment={"TMPDIR": str(directory), "COLUMNS": "200"})


def test_the_demo_shows_both_transports_and_measures_them(tmp_path: Path) -> None:
    with _demo(tmp_path) as demo:
        assert demo.wait(SECONDS) == 0, demo.err

        out = demo.out
    assert demo.err == ""
    assert "Result: 127.0.0.1: use tcp" in out
    for title in ("native TCP", "WebSocket"):
        section = out.split(f"Over {title} ")[1]
        assert "GET / -> 200 OK" in section
        assert GREETING in section
        assert re.search(rf"^{title} +\S+ +[\d.]+ ms +[\d.]+ ms +[\d.]+ MB/s +[\d.]+ MB/s$", out, re.MULTILINE)
    assert "\x1b" not in out, "no colors where nobody sees them"
    assert "\r" not in out
    assert list(tmp_path.iterdir()) == []


def _log_in(url: str, code: str) -> int:
    """The status of the page after logging in with a one-time code, as a browser does."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    request = urllib.request.Request(f"{url}login", f"code={code}".encode(), {"Sec-Fetch-Site": "same-origin"})
    try:
        with opener.open(request, timeout=30) as answer:
            assert "Hybrid connections" in answer.read().decode()
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def test_the_demo_stays_until_it_is_interrupted(tmp_path: Path) -> None:
    with _demo(tmp_path, "--keep") as demo:
        port = demo.wait_for_line(r"^ready demo demo=127\.0\.0\.1:(\d+)$", seconds=SECONDS)[1]
        demo.wait_for_line("Ctrl-C ends it")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert GREETING in answer.read().decode()
        link = re.search(r"^  (http://127\.0\.0\.1:\d+/)login\?code=([\w-]+)$", demo.out, re.MULTILINE)
        assert link is not None
        assert [_log_in(link[1], link[2]) for _ in range(2)] == [200, 401], "the link lets one in once"
        string_file = re.search(r"--connection-string-file (\S+)", demo.out)
        assert string_file is not None
        with Program([*HYBRIDRELAY, "probe", "--connection-string-file", string_file[1]]) as probe:
            assert probe.wait() == 0
        demo.process.send_signal(signal.SIGINT)

        assert demo.wait() == 0
    assert demo.err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("What the prober finds", signal.SIGINT),
        ("Over native TCP", signal.SIGTERM),
        ("GET / ->", signal.SIGINT),
        ("^  down", signal.SIGINT),
        ("Over WebSocket", signal.SIGTERM),
    ],
)
def test_it_can_be_stopped_at_any_time(tmp_path: Path, line: str, number: signal.Signals) -> None:
    with _demo(tmp_path) as demo:
        demo.wait_for_line(line, seconds=SECONDS)
        demo.process.send_signal(number)

        assert demo.wait() == 128 + number
    assert demo.err == ""
    assert list(tmp_path.iterdir()) == []
