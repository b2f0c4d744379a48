"""What the audit log has to have before a connector acts."""

from __future__ import annotations

import pytest

from hybridrelay.audit.record import NotRecordedError
from hybridrelay.connector.recorded import wait_recorded
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
