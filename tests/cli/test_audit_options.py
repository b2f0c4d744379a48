"""The options that say where the audit log is written."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridrelay.audit.sinks.files import FileSink
from hybridrelay.cli.arguments.audit_options import AuditTarget, add_audit, audit_target
from hybridrelay.cli.auditing import ProgramAudit
from hybridrelay.errors import ConfigurationError

from .conftest import Run


@pytest.fixture(autouse=True)
def lines_in_the_log() -> Iterator[None]:
    """The sink of standard error switches them off."""
    logger = logging.getLogger("hybridrelay.audit")
    yield
    logger.disabled = False


def parsed(*arguments: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_audit(parser, may_require=True)
    return parser.parse_args(list(map(str, arguments)))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("journal", AuditTarget("journal")),
        ("stderr", AuditTarget("stderr")),
        ("eventlog", AuditTarget("eventlog")),
        ("syslog+udp://logs", AuditTarget("syslog", "udp", "logs", 514)),
        ("syslog+tcp://logs.example.com/", AuditTarget("syslog", "tcp", "logs.example.com", 601)),
        ("syslog+tls://logs:9999", AuditTarget("syslog", "tls", "logs", 9999)),
        ("syslog+tls://192.0.2.1", AuditTarget("syslog", "tls", "192.0.2.1", 6514)),
        ("syslog+tls://[2001:db8::1]:7", AuditTarget("syslog", "tls", "2001:db8::1", 7)),
    ],
)
def test_a_sink_is_named_by_its_kind_or_url(text: str, target: AuditTarget) -> None:
    assert audit_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "", "syslog", "syslog://logs", "syslog+tls://", "syslog+tls://:514", "syslog+tls://logs:0",
        "syslog+tls://logs:65536", "syslog+tls://logs:x", "syslog+tls://a b", "syslog+tls://2001:db8::1",
        "syslog+tls://user@logs", "syslog+quic://logs", "JOURNAL",
        # What programs read differently: octal and short addresses, other digits, ports with zeros or signs.
        "syslog+tls://010.0.0.1", "syslog+tls://127.1", "syslog+tls://2130706433:514", "syslog+tls://0x7f000001",
        "syslog+tls://\u0661.1.1.1", "syslog+tls://logs:\u0665", "syslog+tls://logs:0514", "syslog+tls://logs:+5",
        "syslog+tls://[::ffff:010.0.0.1]", "syslog+tls://[127.0.0.1]:5",
    ],
)  # fmt: skip
def test_what_is_not_a_sink(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected journal, stderr, eventlog, or syslog"):
        audit_target(text)


def test_without_an_option_there_is_none() -> None:
    assert not ProgramAudit(parsed()).log.has_sinks


def test_several_sinks_and_each_once(tmp_path: Path) -> None:
    audit = ProgramAudit(
        parsed("--audit-dir", tmp_path, "--audit-to", "stderr", "--audit-to", "journal", "--audit-to", "journal")
    )
    assert [sink.kind for sink in audit.log._sinks] == ["file", "stderr", "journal"]
    assert logging.getLogger("hybridrelay.audit").disabled
    assert list(tmp_path.iterdir()) == []


def test_a_required_syslog_server_may_have_one_over_udp_beside_it() -> None:
    options = ("--audit-to", "syslog+udp://logs", "--audit-to", "syslog+tls://logs", "--audit-required", "syslog")
    log = ProgramAudit(parsed(*options)).log
    assert [log._is_required(sink) for sink in log._sinks] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--audit-required", "file"], "--audit-required needs --audit-dir or --audit-to"),
        (["--audit-to", "journal", "--audit-required", "file"], "an audit log in file is required"),
        (["--audit-to", "syslog+udp://logs", "--audit-required", "syslog"], "over UDP cannot be required"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_together(arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ProgramAudit(parsed(*arguments))


@pytest.mark.parametrize(
    ("size", "max_total"), [("64MB", 64_000_000), ("1.5TB", 1_500_000_000_000), ("none", None)], ids=str
)
def test_the_size_of_a_directory(tmp_path: Path, size: str, max_total: int | None) -> None:
    audit = ProgramAudit(parsed("--audit-dir", tmp_path, "--audit-max-bytes", size))
    (sink,) = audit.log._sinks
    assert isinstance(sink, FileSink)
    assert sink.directory._max_total == max_total


@pytest.mark.parametrize("size", ["63MB", "0", "much", "-1"])
def test_what_is_not_a_size(run: Run, size: str) -> None:
    result = run("relay", "--audit-max-bytes", size)

    assert (result.code, "--audit-max-bytes" in result.err) == (2, True)


@pytest.mark.parametrize("command", ["connector", "forward", "relay"])
def test_a_wrong_sink_is_an_error_of_usage(run: Run, command: str) -> None:
    result = run(command, "--audit-to", "nonsense")

    assert result.code == 2
    assert "--audit-to" in result.err
