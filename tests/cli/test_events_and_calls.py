"""``hybridrelay events`` and ``hybridrelay audit calls``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridrelay.security import ManagementRole

from ..deployments import Deployment
from .conftest import Created, Run
from .served_relay import Access, served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@pytest.fixture(params=["socket", "https"])
def access(request: pytest.FixtureRequest, created: Created) -> Iterator[Access]:
    """A relay with the hybrid connection ``orders``."""
    with served(created.state, over_tcp=request.param == "https") as access:
        yield access


def test_events_are_listed(run: Run, access: Access) -> None:
    for number in range(3):
        assert run("rules", "set", "orders", "--rule", f"r{number}", "--rights", "send", *access.options).code == 0
    listed = run("events", *access.options)
    assert (listed.code, listed.err) == (0, "")
    lines = [line for line in listed.out.splitlines() if "management.called" in line]
    assert ["rule=r0" in lines[0], "rule=r1" in lines[1], "rule=r2" in lines[2]] == [True] * 3
    found = [json.loads(line) for line in run("events", "--json", "--limit", "2", *access.options).out.splitlines()]
    assert [one["fields"]["rule"] for one in found] == ["r1", "r2"]
    later = run("events", "--json", "--since", str(found[0]["number"]), *access.options)
    assert [json.loads(line)["number"] for line in later.out.splitlines()] == [found[1]["number"]]
    unknown = run("events", "--since", "1", *access.options)
    assert unknown.code == 0
    assert "no longer has all events since number 1" in unknown.err


def test_the_audit_log_is_shown(run: Run, access: Access, tmp_path: Path) -> None:
    rule = ("orders", "--rule", "r")
    for rights in ("send", "listen"):
        assert run("rules", "set", *rule, "--rights", rights, *access.options).code == 0
    viewer = access.token_file(ManagementRole.VIEWER)
    if access.name == "https":
        _, url, _, _, *trust = access.options
        remote = ("--management", url, "--token-file", viewer, *trust)
        assert run("rules", "delete", *rule, *remote).code == 2
    assert run("rules", "delete", *rule, *access.options).code == 0
    kind = "token" if access.name == "https" else "local"
    # The hybrid connection was created before the relay was started, by a command that used the store.
    expected = [("putHybridConnection", 201), ("putAuthorizationRule", 201), ("putAuthorizationRule", 200)]
    expected += [("deleteAuthorizationRule", 403)] if access.name == "https" else []
    expected += [("deleteAuthorizationRule", 204)]
    shown = run("audit", "calls", "--json", *access.options)
    assert (shown.code, shown.err) == (0, "")
    found = json.loads(shown.out)
    assert [(one["operation"], one["status"]) for one in found] == expected
    assert found[0]["caller"].startswith("local ")
    assert {one["caller"].split()[0] for one in found[1:]} == {kind}
    table = run("audit", "calls", "--limit", "1", *access.options).out.splitlines()
    assert len(table) == 2
    assert table[1].split()[-4:] == ["deleteAuthorizationRule", "204", "connection=orders", "rule=r"]
    for more, count in (
        (("--operation", "putAuthorizationRule"), 2),
        (("--connection", "others"), 0),
        (("--caller", kind), len(expected) - (kind != "local")),
        (("--caller", "nobody"), 0),
        (("--since", "1h"), len(expected)),
        (("--since", "2000-01-01"), len(expected)),
        (("--since", "9000-01-01"), 0),
    ):
        assert len(json.loads(run("audit", "calls", "--json", *more, *access.options).out)) == count, more
    assert run("audit", "calls", "--caller", "nobody", *access.options).out == "no entries match\n"
    assert run("drain", "--undo", *access.options).code == 0
    table = run("audit", "calls", "--limit", "1", *access.options).out.splitlines()
    assert table[1].split()[-3:] == ["undoDrainRelay", "200,", "unchanged"]


def test_the_audit_log_of_a_relay_that_does_not_run(run: Run, created: Created, tmp_path: Path) -> None:
    with served(created.state, over_tcp=False) as access:
        for number in range(5):
            done = run("rules", "set", "orders", "--rule", f"r{number}", "--rights", "send", *access.options)
            assert done.code == 0
    found = json.loads(run("audit", "calls", "--json", "--limit", "3", "--state", created.state).out)
    assert [one["rule"] for one in found] == ["r2", "r3", "r4"]
    nowhere = run("audit", "calls", "--state", tmp_path / "nowhere")
    assert (nowhere.code, "does not exist" in nowhere.err) == (2, True)


@pytest.mark.parametrize("command", ["events", "audit"])
def test_a_wrong_time_is_refused(run: Run, command: str) -> None:
    for since in ("x", "-1", "1.5h", "0m", "1" * 19, "2026-13-01", "2026-01-01 10:00", "1969-12-31", "20260101"):
        assert run(command, f"--since={since}", "--state", "s").code == 2


def test_events_are_followed_over_a_restart(tmp_path: Path) -> None:
    with Deployment(tmp_path) as deployment:
        relay = deployment.start_relay()
        without = deployment.run("events", "--state", tmp_path / "nowhere")
        assert (without.returncode, without.stdout) == (2, "")
        token = ("tokens", "create", "a", "--role", "viewer", "--out", tmp_path / "a", "--state", deployment.state)
        assert deployment.run(*token).returncode == 0
        ready = "management.called: .*operation_id=createToken"
        following = deployment.start("events", "--follow", "--state", deployment.state, ready=ready)
        relay.terminate()
        following.wait_for_line("trying again until it answers", where="err")
        deployment.start_relay()
        following.wait_for_line("the relay answers again", where="err")
        deployment.run("tokens", "revoke", "a", "--state", deployment.state)
        following.wait_for_line("management.called: .*operation_id=deleteToken")
        following.process.send_signal(signal.SIGINT)
        assert following.wait() == 0
        stopped = deployment.run("audit", "calls", "--json", "--state", deployment.state)
        assert [one["operation"] for one in json.loads(stopped.stdout)] == ["createToken", "deleteToken"]
