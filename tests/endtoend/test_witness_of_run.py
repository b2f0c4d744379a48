"""The relay as the witness of the audit log of `hybridrelay run`, with real processes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ..applications import runner_for
from ..deployments import Deployment, Published
from ..waiting import async_wait_until
from .targets import echo, serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="'run' needs Linux")

#: After 256 records, there is a checkpoint. Each connection makes two.
CONNECTIONS = 140
#: Uses so many connections, one after the other, then says so, and waits for a line.
TALK = f"""
for number in $(seq {CONNECTIONS}); do
    exec 3<>/dev/tcp/echo.corp.example/7
    echo "$number" >&3; read -r line <&3
    [ "$line" = "$number" ] || exit 7
    exec 3>&-
done
echo talked
read -r _
"""


def checkpoints(deployment: Deployment) -> list[dict[str, Any]]:
    """What the relay keeps."""
    done = deployment.run("audit", "checkpoints", "--json", "--state", deployment.state)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def records(directory: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Each record of an audit log, with its file and its place there."""
    for file in sorted(directory.glob("audit-*.jsonl")):
        for number, line in enumerate(file.read_text().splitlines()):
            yield file, number, json.loads(line)


async def test_what_was_witnessed_cannot_be_cut_off(deployment: Deployment, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)

    def prepare() -> Published:
        published = deployment.create("orders", target)
        deployment.start_connector(published)
        return published

    published = await trio.to_thread.run_sync(prepare)
    with runner_for(published) as runner:
        audit = runner.directory / "audit"
        arguments = ("--as", "echo.corp.example:7", "--mode", "tcp", "--audit-dir", audit, "--", "bash", "-c", TALK)
        with runner.start(*arguments) as process:
            assert process.stdout is not None
            assert await trio.to_thread.run_sync(process.stdout.readline) == "talked\n"

            async def witnessed() -> int:
                found = await trio.to_thread.run_sync(checkpoints, deployment)
                return max((int(one["last"]) for one in found if one["last"] >= CONNECTIONS), default=0)

            seq = await async_wait_until(witnessed, seconds=120, what="a checkpoint at the relay")
            _, log = await trio.to_thread.run_sync(process.communicate, "\n")
            assert process.returncode == 0, log

        def verify() -> tuple[int, str]:
            done = deployment.run("audit", "verify", audit, "--witness", "relay", "--state", deployment.state)
            return done.returncode, done.stdout

        code, text = await trio.to_thread.run_sync(verify)
        assert code == 0, text
        found = re.search(r"witnessed up to record (\d+)", text)
        assert found is not None
        assert int(found[1]) >= seq
        events = [record["event"] for _, _, record in records(audit)]
        assert events.count("stream.closed") == CONNECTIONS

        # Without the witness, a log that ends at an earlier record would be valid.
        file, line = next((file, number) for file, number, record in records(audit) if record["seq"] == seq - 10)
        file.write_text("".join(f"{one}\n" for one in file.read_text().splitlines()[:line]))
        alone = await trio.to_thread.run_sync(deployment.run, "audit", "verify", audit)
        assert alone.returncode == 0, alone.stdout
        code, text = await trio.to_thread.run_sync(verify)
        assert (code, "the end was cut off" in text) == (4, True), text
