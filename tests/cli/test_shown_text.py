"""Text from a relay or from what answers in its place: it neither controls the terminal nor ends a command."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybridrelay.cli.output import table, without_controls
from hybridrelay.cli.times import utc_text

from ..http_servers import http_server

#: Sets the title of the window, clears it, writes from right to left, and begins another line.
EVIL = "\x1b]0;x\x07\x1b[2J\u202e\u2028evil\nfake line: ok\r"


def test_cells_stay_in_their_lines() -> None:
    shown = table(("A", "B"), [(EVIL, "b"), ("a", EVIL)])
    assert len(shown.splitlines()) == 3
    assert all(line.isprintable() for line in shown.split("\n"))


def test_what_is_printed_has_colors_and_nothing_else_that_controls_a_terminal() -> None:
    kept = "a\tb\n\x1b[32mok\x1b[0m\n"
    assert without_controls(kept) == kept
    shown = without_controls(kept + EVIL)
    assert shown.startswith(kept)
    assert all(line.isprintable() for line in shown[len(kept) :].split("\n"))


@pytest.mark.parametrize("seconds", [1e308, -1e308, float("inf"), float("nan"), 1e18])
def test_an_impossible_time_is_shown_as_that(seconds: float) -> None:
    assert utc_text(seconds) == "at an impossible time"


def test_a_time_is_shown_in_utc() -> None:
    assert utc_text(0) == "1970-01-01T00:00:00Z"
    assert utc_text(1767323045.9) == "2026-01-02T03:04:05Z"


def _connection(**other: object) -> dict[str, object]:
    limits = dict.fromkeys(("listeners", "senders", "sessions", "bytesPerMonth", "bytesPerSecond", "endAtLimit"))
    rule = {"name": EVIL, "rights": ["Send"], "keys": []}
    return {
        "name": EVIL, "endpoints": [EVIL], "description": EVIL, "metadata": {}, "disabled": False, "edition": None,
        "limits": limits, "createdAt": 1e308, "updatedAt": 1.0, "version": 1, "authorizationRules": [rule],
        "listenerCount": 0, "senderCount": 0, "sessionCount": 0, "bytesToClient": 0, "bytesToConnector": 0, **other,
    }  # fmt: skip


EVENT = {
    "number": 1, "time": EVIL, "name": EVIL, "level": EVIL, "operation": EVIL, "summary": EVIL,
    "fields": {EVIL: EVIL},
}  # fmt: skip
ENTRY = {
    "number": 1, "time": 1e308, "operation": EVIL, "caller": EVIL, "role": EVIL, "peer": EVIL, "connection": EVIL,
    "rule": EVIL, "token": EVIL, "status": 200, "requestId": EVIL,
}  # fmt: skip
TOKEN = {
    "id": EVIL, "name": EVIL, "role": EVIL, "scope": EVIL,
    "createdAt": 1e308, "expiresAt": 1e308, "lastUsedAt": 1e308,
}  # fmt: skip
DEEP = b'{"x":' * 50_000 + b"1" + b"}" * 50_000
PROBLEM = {"type": EVIL, "title": EVIL, "detail": EVIL, "remedy": EVIL, "errors": [{"pointer": EVIL, "detail": EVIL}]}


@contextmanager
def _served(status: int, content: object) -> Iterator[str]:
    """Answer every request in the same way. Gives the URL."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("command", "status", "content"),
    [
        ("connections list", 200, {"value": [_connection()], "nextCursor": None}),
        ("connections show orders", 200, _connection()),
        ("events", 200, {"value": [EVENT], "last": 1, "hasAll": True}),
        ("audit", 200, {"value": [ENTRY], "nextCursor": None}),
        ("tokens list", 200, {"value": [TOKEN], "nextCursor": None}),
        ("connections list", 200, DEEP),
        ("connections list", 404, DEEP),
        ("connections list", 404, PROBLEM),
        ("status", 200, DEEP),
    ],
)
def test_a_hostile_answer_controls_no_terminal(command: str, status: int, content: object, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"hrm_abcdefgh_{'A' * 43}")
    token.chmod(0o600)
    with _served(status, content) as url:
        done = subprocess.run(
            [sys.executable, "-m", "hybridrelay", *command.split(), "--management", url, "--token-file", token],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=None,
            check=False,
            timeout=60,
        )
    for line in (done.stdout + done.stderr).split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("fake line"), done.stdout
    assert done.returncode in (0, 1, 2), done.stderr
    assert "this is a bug" not in done.stderr
