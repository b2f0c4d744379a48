"""The deny list: whatever an administrator may have meant by a line is denied; what means nothing is an error."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hybridrelay.errors import ConfigurationError
from hybridrelay.events import DenyListAmbiguous, DenyListLoaded, event_text
from hybridrelay.policy import Action, Policy, PolicyFile, PolicyReading, Resource
from hybridrelay.policy.deny_list import MAX_SHOWN, DenyList, parse_deny_list
from hybridrelay.policy.toml_files import parse_policy_file
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, PeerIdentity, Role

SERIAL = "03FA0178"
RESOURCE = Resource("orders", HostPort("db", 5432))


def _peer(label: str, serial: str = "7E00") -> PeerIdentity:
    return PeerIdentity("orders", Role.APPLICATION, label, serial, 4e9)


@asynccontextmanager
async def _watched(
    file: PolicyFile,
) -> AsyncIterator[tuple[trio.MemoryReceiveChannel[PolicyReading], trio.MemoryReceiveChannel[ConfigurationError]]]:
    """Watch a file during the block. Gives what is reported: changes and errors."""
    changed, failed = trio.open_memory_channel[PolicyReading](9), trio.open_memory_channel[ConfigurationError](9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridrelay.policy.file.POLL_SECONDS", 0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.watch, changed[0].send_nowait, failed[0].send_nowait)
            yield changed[1], failed[1]
            nursery.cancel_scope.cancel()


def _refuses(policy: Policy, label: str, serial: str = "7E00") -> bool:
    policy = Policy(files=(parse_policy_file("udp.toml", "AllowUdp = true"),)).and_also(policy)
    decisions = [policy.decide(_peer(label, serial), action, RESOURCE).reason for action in Action]
    assert len(set(decisions)) == 1
    return decisions[0] is Reason.IDENTITY_DENIED


@pytest.mark.parametrize(
    "data",
    [
        b"application\n",
        b"\xef\xbb\xbfapplication\r\n",
        b"\xef\xbb\xbfapplication",
        "\ufeffapplication\r\n".encode("utf-16-le"),
        "\ufeffapplication\n".encode("utf-16-be"),
        b"other\rapplication\rmore\r",
        b"  application\t\xc2\xa0\n",
        b"application\t# with a comment\n",
        b"application# with a comment\n",
        b'"application"  # in quotes\n',
        b"'application'\n",
        "\u201capplication\u201d\n".encode(),
        b"other\n\xef\xbb\xbfapplication\n",  # two files put together
    ],
)
def test_a_label_is_denied_however_the_file_was_written(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)

    policy = PolicyFile(tmp_path / "file").policy

    assert _refuses(policy, "application")
    assert not _refuses(policy, "reporting")


@pytest.mark.parametrize("label", ["a#b", "#1 of two", '"quoted"', "a # b", "'", "caf\u00e9"])
def test_unusual_labels_can_be_denied(label: str) -> None:
    line = f'"{label}"' if label.startswith("#") else label

    assert _refuses(Policy(parse_deny_list(line).names), label)


def test_an_accent_may_be_written_in_two_ways() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"

    for written in (composed, decomposed):
        for label in (composed, decomposed):
            assert _refuses(Policy(parse_deny_list(written).names), label)


@pytest.mark.parametrize(
    "text",
    ["03FA0178", "3fa0178", "03:fa:01:78", "03 FA 01 78", "03-fa-01-78", "0x3FA0178", "\u200e03fa0178", "0003FA0178"],
)
def test_a_serial_is_denied_however_it_is_written(text: str) -> None:
    policy = Policy(parse_deny_list(text).names)

    assert _refuses(policy, "application", SERIAL)
    assert not _refuses(policy, "application", "FA0178")


@pytest.mark.parametrize(
    "text",
    ["x" * 65, "appli\u200bcation", "appli\tcation", "appli\u00a0cation", "\x1b[2J", '""'],
    ids=ascii,
)
def test_a_line_that_means_nothing_is_an_error_with_its_number(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"# a comment\n\n{text}\n", "utf-8")

    with pytest.raises(ConfigurationError, match="line 3 is neither a label nor a serial") as caught:
        PolicyFile(tmp_path / "file")

    assert str(tmp_path / "file") in str(caught.value)
    assert text not in str(caught.value)


def test_nobody_is_denied_by_comments_and_empty_lines() -> None:
    policy = Policy(parse_deny_list("\n# application\n   #reporting\n\u00a0\n# 7E00\n").names)

    assert not any(_refuses(policy, label) for label in ("application", "reporting", "other"))


@pytest.mark.parametrize(
    "line",
    [
        "billing, application",
        "billing,application",
        "application;",
        '"application',
        "application'",
        "- application",
        "* application",
        '["billing", "application"]',
        '"billing","application"',
        "label='application'",
        "label: application",
        "reporting, label=application  # both",
    ],
)
def test_each_part_of_what_looks_like_a_list_is_denied_too(line: str) -> None:
    found = parse_deny_list(line)

    assert _refuses(Policy(found.names), "application")
    assert "application" in found.entries
    assert bool(found.warnings) is not line.startswith("label")
    assert all("line 1" in warning for warning in found.warnings)


@pytest.mark.parametrize("label", ["a, b", "- a", "a;b", "#a", "# a", "a # b # c", "a #b", "[a]", "label=a"])
def test_a_label_that_looks_like_something_else_is_denied_as_it_is(label: str) -> None:
    for line in (label, f"{label}  # comment", f'"{label}"', f'"{label}"  # comment'):
        assert _refuses(Policy(parse_deny_list(line).names), label), line


def test_a_label_in_quotes_is_not_split() -> None:
    found = parse_deny_list('"billing, application"\n')

    assert not _refuses(Policy(found.names), "application")
    assert found.warnings == ()
    assert found.entries == {"billing, application"}


@pytest.mark.parametrize(
    "line", ["3F:A0:1", "3F:A0:17:...", "0x3fa0", "3FA017773FA01777", "serial='7B0011223344556677'"]
)
def test_a_serial_that_is_cut_off_causes_a_warning(line: str) -> None:
    assert any("incomplete serial" in warning for warning in parse_deny_list(line).warnings)


@pytest.mark.parametrize(
    "line",
    ["application", "cafe", "03FA0178" * 5, ":".join(["3F"] * 20), f"serial='{'7B' * 20}'", "order service", "a-b"],
)
def test_a_usual_line_causes_no_warning(line: str) -> None:
    assert parse_deny_list(line).warnings == ()


def test_the_number_of_warnings_is_bounded() -> None:
    warnings = parse_deny_list("a,b\n" * 1000).warnings

    assert len(warnings) == MAX_SHOWN + 1
    assert warnings[-1] == "980 further warnings"


def test_a_change_says_who_is_newly_denied_and_who_no_longer_is() -> None:
    before, now = parse_deny_list("billing\nreporting\n"), parse_deny_list(f"reporting\n{'7B' * 20}\n")

    def loaded(deny_list: DenyList, before: DenyList | None = None) -> DenyListLoaded:
        (event,) = PolicyReading(Path("file"), deny_list, before).events()
        assert isinstance(event, DenyListLoaded)
        return event

    assert loaded(before) == DenyListLoaded(file="file", entries=2, denied=("billing", "reporting"))
    assert loaded(parse_deny_list("")) == DenyListLoaded(file="file", entries=0)
    assert loaded(before, before) == DenyListLoaded(file="file", entries=2)
    assert loaded(now, before) == DenyListLoaded(
        file="file", entries=2, denied=(f"serial {'7B' * 20}",), no_longer_denied=("billing",)
    )
    many = loaded(parse_deny_list("".join(f"label{number}\n" for number in range(100))), before)
    assert len(many.denied) == MAX_SHOWN + 1
    assert many.denied[-1] == "and 80 more"


def test_the_docs_show_what_the_log_shows() -> None:
    before, now = parse_deny_list("billing\nreporting\n"), parse_deny_list("reporting\npayroll\n")
    readings = PolicyReading(Path("deny-list.txt"), before), PolicyReading(Path("deny-list.txt"), now, before)
    lines = [f"{event.name}: {event_text(event)}" for reading in readings for event in reading.events()]

    assert "\n".join(lines) in (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def test_a_line_that_may_be_a_mistake_is_an_event_of_its_own() -> None:
    (_, unclear) = PolicyReading(Path("file"), parse_deny_list("fine\nbilling, x\n")).events()

    assert isinstance(unclear, DenyListAmbiguous)
    assert "line 2 looks like a list" in unclear.detail
    assert "'billing', 'x' are denied" in unclear.detail


async def test_every_different_error_is_reported_and_the_recovery(tmp_path: Path) -> None:
    path, aside = tmp_path / "file", tmp_path / "aside"
    path.write_text("application\n")
    file = PolicyFile(path)
    first = file.reading
    assert first.deny_list.entries == {"application"}
    async with _watched(file) as (changed, failed):
        path.rename(aside)
        assert "No such file" in str(await failed.receive())
        path.mkdir()
        assert "Is a directory" in str(await failed.receive())
        path.rmdir()
        assert "No such file" in str(await failed.receive())
        aside.rename(path)  # with the time and size that it had

        second = await changed.receive()
        assert second.before == first.deny_list
        assert second.policy == file.policy == first.policy

        aside.write_text("application\nbilling, x\n")
        aside.replace(path)
        third = await changed.receive()
        assert third.before == second.deny_list
        assert third.deny_list.entries - second.deny_list.entries == {"billing", "x"}


async def test_another_file_of_the_same_time_and_size_is_read(tmp_path: Path) -> None:
    """Such as one from an archive or a package."""
    path, other = tmp_path / "file", tmp_path / "other"
    for one, text in ((path, "application\n"), (other, "reporting12\n")):
        one.write_text(text)
        os.utime(one, ns=(1, 1))
    file = PolicyFile(path)
    async with _watched(file) as (changed, _):
        other.replace(path)
        with trio.fail_after(60):
            assert (await changed.receive()).policy == file.policy
        assert _refuses(file.policy, "reporting12")


@pytest.mark.parametrize("data", [b"\xff", b"appli\0cation\n", b"caf\xe9\n", "application".encode("utf-16-le")])
def test_a_file_that_is_not_text_is_an_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)

    with pytest.raises(ConfigurationError, match="line 1"):
        PolicyFile(tmp_path / "file")


async def test_a_change_that_means_nothing_keeps_the_last_policy(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("application\n")
    file = PolicyFile(path)
    async with _watched(file) as (changed, failed):
        path.write_bytes(b"application\nreporting\xff\n")
        os.utime(path, ns=(1, 1))

        assert "line 2" in str(await failed.receive())
        assert _refuses(file.policy, "application")

        path.write_bytes(b"reporting\n")
        os.utime(path, ns=(2, 2))

        assert (await changed.receive()).policy == file.policy
        assert _refuses(file.policy, "reporting")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
async def test_a_file_that_blocks_is_an_error_and_is_watched_on(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("application\n")
    file = PolicyFile(path)
    async with _watched(file) as (changed, failed):
        path.unlink()
        os.mkfifo(path)
        assert "is not a regular file" in str(await failed.receive())
        assert _refuses(file.policy, "application")

        path.unlink()
        path.write_text("reporting\n")
        assert (await changed.receive()).policy == file.policy
        assert _refuses(file.policy, "reporting")
