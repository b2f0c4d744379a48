"""``hybridrelay audit verify``, ``key``, ``show`` and ``export``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from hybridrelay.audit.chain import FieldValue, file_name
from hybridrelay.audit.directory import AuditDirectory
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.record import Record, record_of
from hybridrelay.audit.sinks.files import FileSink
from hybridrelay.audit.sinks.standard_error import json_line

from .conftest import Run

HOUR = 3600.0


def record(age: float, label: str, target: str, event: str = "stream.closed") -> Record:
    fields: dict[str, FieldValue] = {"connection": "orders", "label": label, "target": target, "bytes_to_target": 7}
    return Record(time.time() - age, event, fields)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with records in several files, of which one is compressed."""
    path = tmp_path / "audit"
    directory = AuditDirectory(Disk(path), clock=time.time, max_bytes=1000)
    directory.open()
    directory.append([record(50 * HOUR, "shop", "db:5432")])
    directory.append([record(30 * HOUR, "billing", "db:5432"), record(20 * HOUR, "billing", "[2001:db8::1]:99")])
    directory.append([record(HOUR, "billing", "db:5432", "stream.not-connected")])
    directory.append([record(0, "odd\x1b[31m", "db:1")])
    directory.compress_next()
    directory.close()
    return path


class TestVerify:
    """Whether something was changed."""

    def test_untouched_files_are_good(self, run: Run, directory: Path) -> None:
        result = run("audit", "verify", directory)

        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("OK: records 1 to ")
        assert "it was not checked whose key has signed these files" in result.out

    def test_the_result_is_written_as_json(self, run: Run, directory: Path) -> None:
        found = json.loads(run("audit", "verify", "--json", directory).out)

        assert found["ok"]
        assert (found["isTrusted"], found["deleted"], found["notes"]) == (False, 0, [])
        assert found["files"][0]["name"] == file_name(1)

    def test_the_first_bad_line_is_named(self, run: Run, directory: Path) -> None:
        (newest,) = directory.glob("audit-*.jsonl")
        newest.write_bytes(newest.read_bytes().replace(b"orders", b"secret", 1))
        result = run("audit", "verify", directory)

        assert result.code == 4
        assert result.out.startswith(f"NOT OK: {newest}, line ")
        found = json.loads(run("audit", "verify", "--json", directory).out)
        assert (found["ok"], found["file"]) == (False, newest.name)

    def test_a_damaged_compressed_file(self, run: Run, directory: Path) -> None:
        (compressed,) = directory.glob("*.gz")
        data = bytearray(compressed.read_bytes())
        data[len(data) // 2] ^= 1
        for damaged in (bytes(data), bytes(data[:-20]), b"hello", b""):
            compressed.write_bytes(damaged)
            assert run("audit", "verify", directory).code == 4

    def test_files_that_another_key_has_signed_are_noticed(self, run: Run, directory: Path, tmp_path: Path) -> None:
        key = tmp_path / "audit.pub"
        key.write_text(f"# of the connector\r\n{run('audit', 'key', directory).out}")
        assert run("audit", "verify", directory, "--key", key).code == 0

        other = tmp_path / "other"
        AuditDirectory(Disk(other), clock=time.time).open()
        result = run("audit", "verify", other, "--key", key)
        assert (result.code, "none of the given keys" in result.out) == (4, True)
        key.write_text("nonsense")
        assert run("audit", "verify", directory, "--key", key).code == 2

    @pytest.mark.parametrize("as_json", [False, True])
    def test_an_end_that_was_cut_off_is_noticed_with_the_witness_alone(
        self, run: Run, tmp_path: Path, as_json: bool
    ) -> None:
        directory = tmp_path / "audit"
        sink = FileSink(AuditDirectory(Disk(directory), clock=time.time), str(directory))
        events = [*sink.open(), *sink.write([record(0, "shop", "db:1") for _ in range(300)])]
        *_, checkpoint = [event for event in events if event.name == "audit.checkpoint"]

        kept = record_of(checkpoint, time.time())
        assert kept is not None
        witness = tmp_path / "heads"
        witness.write_text("Mar 01 host hybridrelay: " + (json_line(kept) if as_json else kept.text) + "\nother\n")

        result = run("audit", "verify", directory, "--witness", witness)
        assert (result.code, "witnessed up to record 258" in result.out) == (0, True)
        (file,) = directory.glob("audit-*")
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:200]))
        assert run("audit", "verify", directory).code == 0
        cut = run("audit", "verify", directory, "--witness", witness)
        assert (cut.code, "the end was cut off" in cut.out) == (4, True)
        witness.write_text("nothing\n")
        assert run("audit", "verify", directory, "--witness", witness).code == 2

    def test_what_is_not_an_audit_directory(self, run: Run, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing"):
            for command in (("verify",), ("key",), ("show",), ("export", "--format", "cef")):
                assert run("audit", command[0], path, *command[1:]).code == 2


class TestShow:
    """Records, filtered."""

    def test_records_are_shown_as_a_table(self, run: Run, directory: Path) -> None:
        lines = run("audit", "show", directory, "--event", "stream").out.splitlines()

        assert lines[0].split() == ["RECORD", "TIME", "EVENT", "CONNECTION", "LABEL", "TARGET", "ABOUT"]
        assert len(lines) == 6
        assert "bytes_to_target=7" in lines[1]
        assert "\x1b" not in "".join(lines)

    @pytest.mark.parametrize(
        ("options", "count"),
        [
            (["--label", "billing"], 3),
            (["--label", "bill"], 0),
            (["--label", "billing", "--since", "25h"], 2),
            (["--label", "billing", "--until", "25h"], 1),
            (["--label", "billing", "--until", "1970-01-02"], 0),
            (["--label", "billing", "--since", "2000-01-01T00:00Z"], 3),
            (["--label", "billing", "--since", "2000-01-01", "--until", "25h"], 1),
            (["--target", "db:5432"], 3),
            (["--target", "db"], 4),
            (["--target", "2001:db8::1"], 1),
            (["--event", "stream.not-connected"], 1),
            (["--connection", "orders"], 5),
            (["--connection", "other"], 0),
            (["--event", "stream", "--limit", "2"], 2),
        ],
        ids=str,
    )
    def test_options_choose_records(self, run: Run, directory: Path, options: list[str], count: int) -> None:
        shown = run("audit", "show", directory, "--json", *options)
        assert (shown.code, len(shown.out.splitlines())) == (0, count)

    def test_a_signature_says_what_it_covers(self, run: Run, directory: Path) -> None:
        lines = run("audit", "show", directory, "--event", "log.checkpoint").out.splitlines()
        record = json.loads(
            run("audit", "show", directory, "--event", "log.checkpoint", "--json").out.splitlines()[0]
        )

        assert f"signed_up_to=1 hash={record['covers']['head']}" in lines[1]
        assert not any(word in lines[1] for word in ("covers", "sig=", "{"))

    def test_it_says_that_no_record_matches(self, run: Run, directory: Path) -> None:
        assert run("audit", "show", directory, "--label", "nobody").out == "no records match\n"


class TestExport:
    """Formats of other systems."""

    def test_jsonl_is_as_in_the_files(self, run: Run, directory: Path) -> None:
        lines = run("audit", "export", directory, "--format", "jsonl").out.splitlines()
        numbers = [json.loads(line)["seq"] for line in lines]
        assert numbers == list(range(1, len(lines) + 1))

    def test_records_are_exported_as_ocsf(self, run: Run, directory: Path) -> None:
        lines = run(
            "audit", "export", directory, "--format", "ocsf", "--event", "stream.not-connected"
        ).out.splitlines()
        assert [json.loads(line)["type_uid"] for line in lines] == [400105]

    def test_records_are_exported_as_cef(self, run: Run, directory: Path) -> None:
        lines = run("audit", "export", directory, "--format", "cef", "--label", "billing").out.splitlines()
        assert len(lines) == 3
        assert all(line.startswith("CEF:0|hybridrelay|") for line in lines)
