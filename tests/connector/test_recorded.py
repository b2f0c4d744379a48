"""What the audit log has to have before a connector acts."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.audit.record import NotRecordedError
from hybridrelay.connector.recorded import wait_recorded
from hybridrelay.connector.required_audit import RequiredAudit
from hybridrelay.events import Event, EventStream
from hybridrelay.events.audit import AuditSinkMissing
from hybridrelay.policy import Policy
from hybridrelay.policy.toml_files import parse_policy_file


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        ("AllowRun = true", None),
        ("RequireAudit = ['file', 'journal']", r"an audit log \(file, journal\)"),
        ("AuditWitness = ['relay.example.com']", "relays that keep checkpoints"),
    ],
)
async def test_without_an_audit_log(rule: str, refused: str | None) -> None:
    policy = Policy(files=(parse_policy_file("10.toml", rule),))
    if refused is None:
        await wait_recorded(None, policy)
        return
    with pytest.raises(NotRecordedError, match=refused):
        await wait_recorded(None, policy)


async def test_with_an_audit_log_it_decides() -> None:
    waited: list[str] = []

    async def good() -> None:
        waited.append("good")

    async def full() -> None:
        raise NotRecordedError("file: No space left on device")

    policy = Policy(files=(parse_policy_file("10.toml", "RequireAudit = ['file']"),))
    await wait_recorded(good, policy)
    assert waited == ["good"]
    for any_policy in (policy, Policy()):
        with pytest.raises(NotRecordedError, match="No space left"):
            await wait_recorded(full, any_policy)


def test_without_an_audit_log_the_status_says_what_is_missing_and_what_to_do() -> None:
    rules = "RequireAudit = ['file']\nAuditWitness = ['relay.example.com']"
    policy = Policy(files=(parse_policy_file("10.toml", rules),))
    missing, witness = RequiredAudit(None, lambda: policy, lambda: (), EventStream()).problems()
    assert missing.text.startswith("the audit log lacks the required sink file: ")
    assert "add --audit-dir" in missing.remedy
    assert witness.text.startswith("the audit log lacks the required witness: ")
    assert "this program writes no audit directory" in witness.text
    assert "AuditWitness" in witness.remedy


async def test_a_missing_sink_is_reported_once(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """At the start, and again after there was one."""
    policy = [Policy(files=(parse_policy_file("10.toml", "RequireAudit = ['file']"),))]
    events: list[Event] = []
    required = RequiredAudit(None, lambda: policy[0], lambda: (), EventStream(events.append))
    nursery.start_soon(required.watch, lambda _: None)
    await trio.sleep(20)
    (event,) = events
    assert isinstance(event, AuditSinkMissing)
    assert event.sink == "sink file"
    assert "add --audit-dir" in event.remedy
    policy.insert(0, Policy())
    await trio.sleep(20)
    policy.pop(0)
    await trio.sleep(20)
    assert len(events) == 2
    nursery.cancel_scope.cancel()
