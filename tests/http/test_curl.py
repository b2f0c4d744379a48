"""The server's responses as curl understands them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from hybridrelay.http import Limits

from .serving import Observed, make_service
from .test_server import serving

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


async def curl(*arguments: str) -> str:
    """Run curl. Returns its output, and with ``-v`` also what it reports about the connection."""
    command = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", "60", *arguments]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT)
    return done.stdout.decode()


async def test_curl_reuses_its_connection() -> None:
    async with serving(make_service()) as (port, _, _):
        urls = [
            f"http://127.0.0.1:{port}{path}" for path in ("/", "/streamed", "/known", "/nothing", "/nowhere", "/")
        ]
        output = await curl("-v", *urls)
    assert output.count("* Connected to") == 1
    assert output.count("Re-using existing connection") == 5
    assert "one two three" in output
    assert "four" in output


@pytest.mark.parametrize("option", ["--http1.0", "--http1.1"])
async def test_curl_reads_streams_in_http_1_1_and_1_0(option: str) -> None:
    async with serving(make_service()) as (port, _, _):
        assert await curl(option, f"http://127.0.0.1:{port}/streamed") == "one two three"


async def test_curl_gets_the_length_of_a_body_with_head() -> None:
    async with serving(make_service()) as (port, _, _):
        output = await curl("-I", f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/streamed")
    assert output.count("HTTP/1.1 200 OK") == 2
    assert "Content-Length: 6" in output


async def test_curl_is_told_to_continue(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"a" * 50_000)
    async with serving(make_service()) as (port, _, _):
        received = tmp_path / "received"
        url = f"http://127.0.0.1:{port}/echo"
        expect = ("-v", "-H", "Expect: 100-continue", "-T", str(file))
        output = await curl(*expect, "-X", "POST", "-o", str(received), url)
        assert "HTTP/1.1 100 Continue" in output
        assert received.read_bytes() == file.read_bytes()
        refused = await curl(*expect, f"http://127.0.0.1:{port}/nowhere")
    assert "100 Continue" not in refused
    assert "HTTP/1.1 404 Not Found" in refused


async def test_curl_uploads_with_and_without_chunks(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"a" * 3_000_000)
    observed = Observed()
    async with serving(make_service(observed, Limits(max_body_bytes=4_000_000))) as (port, _, _):
        chunked = ("-H", "Transfer-Encoding: chunked", "-H", "Expect:")
        received = tmp_path / "received"
        for target in ("echo", "echo-streamed"):
            for extra in ((), chunked):
                url = f"http://127.0.0.1:{port}/{target}"
                await curl("-X", "POST", "-T", str(file), *extra, "-o", str(received), url)
                assert received.read_bytes() == file.read_bytes()
    assert [one.received_bytes for one in observed.accesses] == [3_000_000] * 4


async def test_curl_is_refused_too_large_a_body(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"a" * 100_000)
    async with serving(make_service()) as (port, _, _):
        output = await curl("-v", "-X", "POST", "-T", str(file), "-H", "Expect:", f"http://127.0.0.1:{port}/echo")
    assert "HTTP/1.1 413" in output


async def test_a_target_in_absolute_form_is_served() -> None:
    async with serving(make_service()) as (port, _, _):
        assert await curl("-x", f"http://127.0.0.1:{port}", "--noproxy", "", "http://relay.example/") == "hello\n"
