"""Whatever is done to audit files, their verification names the first line that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridrelay.audit.chain import MAX_LINE, Chain, Checkpoint, FieldValue, Position, file_name, hash_of, time_text
from hybridrelay.audit.keys import SigningKey, VerifyingKey
from hybridrelay.audit.verification import BadLine, Verifier

from .lines import Files, WrittenLog, verify


def names(log: WrittenLog) -> list[str]:
    return sorted(log.files)


class TestWhatIsGood:
    """Files that nobody has touched."""

    def test_one_file_is_good_up_to_its_end(self) -> None:
        log = WrittenLog.of(3)
        verdict = verify(log.files)

        assert verdict.end == log.chain.position
        assert (verdict.signed_up_to, verdict.is_trusted, verdict.deleted, verdict.notes) == (4, False, 0, ())
        assert [(file.name, file.first, file.last) for file in verdict.files] == [(file_name(1), 1, 5)]

    def test_several_files_have_a_key_each_and_one_chain(self) -> None:
        log = WrittenLog.of(3, 0, 2)
        verdict = verify(log.files, [log.keys[0].public])

        assert [file.key for file in verdict.files] == [key.public for key in log.keys]
        assert len(set(log.keys)) == 3
        assert verdict.is_trusted
        assert verdict.end.seq == sum(map(len, log.files.values()))

    def test_the_times_of_the_first_and_last_line(self) -> None:
        log = WrittenLog.of(3)
        verdict = verify(log.files)

        assert verdict.begun_at == time_text(1_700_000_001)
        assert verdict.ended_at == time_text(1_700_000_005)

    def test_lines_after_the_last_checkpoint_are_not_signed(self) -> None:
        log = WrittenLog.of(3)
        log.records(2)

        assert verify(log.files).signed_up_to == 4

    def test_a_last_line_that_is_not_complete_is_a_note(self) -> None:
        log = WrittenLog.of(3)
        log.lines.append(b'{"seq":6,"pr')

        (note,) = verify(log.files).notes
        assert "is not complete" in note

    def test_the_records_that_are_lost_according_to_the_log_are_a_note(self) -> None:
        log = WrittenLog.of(1)
        log.lines.append(log.chain.record(log.at(), "audit.records-lost", {"records": 17}))

        assert "17 records" in verify(log.files).notes[0]

    def test_what_an_abrupt_end_has_left_is_a_note(self) -> None:
        log = WrittenLog.of(1)
        log.records(1)
        log.lines.append(log.chain.record(log.at(), "log.resumed", {"unsigned_from": 4, "removed_bytes": 12}))

        first, second = verify(log.files).notes
        assert "from 4 on were signed only when it had started again" in first
        assert "12 bytes was removed" in second


class TestKeys:
    """Who has signed."""

    def test_any_of_the_keys_that_have_signed_may_be_given(self) -> None:
        log = WrittenLog.of(1, 1, 1)
        for key in log.keys:
            assert verify(log.files, [key.public, SigningKey.generate().public]).is_trusted

    def test_files_of_somebody_else(self) -> None:
        expected, other = WrittenLog.of(3), WrittenLog.of(3)

        with pytest.raises(BadLine, match="none of the given keys"):
            verify(other.files, [expected.key.public])

    def test_a_forged_key_file_does_not_verify(self) -> None:
        with pytest.raises(ValueError, match="not a public key"):
            VerifyingKey.parse("ed25519:AAAA")

    def test_a_key_does_not_show_itself(self) -> None:
        key = SigningKey.generate()
        seed = key.to_file().decode().split()[0]
        assert seed not in repr(key) + str(key)
        assert repr(SigningKey.from_file(key.to_file())) == repr(key)

    @pytest.mark.parametrize("cut", [0, 1, 20, 44, 50, 60])
    def test_a_key_that_was_not_written_completely_is_noticed(self, cut: int) -> None:
        with pytest.raises(ValueError, match="not a complete key"):
            SigningKey.from_file(SigningKey.generate().to_file()[:cut])


def _edit(lines: list[bytes], number: int) -> None:
    lines[number - 1] = lines[number - 1].replace(b"billing", b"payroll")


def _remove(lines: list[bytes], number: int) -> None:
    del lines[number - 1]


def _repeat(lines: list[bytes], number: int) -> None:
    lines.insert(number, lines[number - 1])


def _swap(lines: list[bytes], number: int) -> None:
    lines[number - 1], lines[number] = lines[number], lines[number - 1]


@pytest.mark.parametrize(
    ("change", "named", "says"),
    [
        (_edit, 5, "one of the two was changed"),
        (_remove, 5, "removed, inserted or moved"),
        (_repeat, 6, "removed, inserted or moved"),
        (_swap, 5, "removed, inserted or moved"),
    ],
)
@pytest.mark.parametrize("file", [0, 1])
def test_the_first_wrong_line_is_named(
    change: Callable[[list[bytes], int], None], named: int, says: str, file: int
) -> None:
    log = WrittenLog.of(8, 8)
    name = names(log)[file]
    change(log.files[name], 5)

    with pytest.raises(BadLine, match=says) as caught:
        verify(log.files)
    assert (caught.value.file, caught.value.line) == (name, named)


def _chained_again(lines: list[bytes], start: int) -> None:
    """Repair all hashes after a change, as somebody does who knows the format and has no key."""
    for index in range(start, len(lines)):
        content = json.loads(lines[index])
        before = json.loads(lines[index - 1])
        content["prev"], content["seq"] = hash_of(lines[index - 1]), before["seq"] + 1
        if "covers" in content:
            content["covers"] |= {"seq": before["seq"], "head": content["prev"]}
        lines[index] = json.dumps(content, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize("change", [_edit, _remove, _repeat])
def test_repaired_hashes_lack_the_signature(change: Callable[[list[bytes], int], None]) -> None:
    log = WrittenLog.of(8)
    change(log.lines, 5)
    _chained_again(log.lines, 4)

    with pytest.raises(BadLine, match="not signed with the key of this file") as caught:
        verify(log.files)
    assert caught.value.line == len(log.lines)  # the checkpoint


def test_repaired_hashes_of_several_files_lack_the_signature() -> None:
    log = WrittenLog.of(4, 4)
    first, _ = names(log)
    _edit(log.files[first], 3)
    _chained_again(log.files[first], 3)

    with pytest.raises(BadLine, match="not signed"):
        verify(log.files)


def signed(log: WrittenLog, key: SigningKey | None = None, seq: int = 0, head: str = "") -> Checkpoint:
    """A checkpoint with a signature; by default, that of the last line of the log."""
    chain = Chain(log.key if key is None else key, log.chain.position, log.log_id)
    if seq:
        chain.position = Position(seq, head)
    chain.checkpoint(log.at())
    assert chain.signed is not None
    return chain.signed


class TestFiles:
    """What is done to whole files."""

    def test_the_end_of_a_file_is_cut_off(self) -> None:
        log = WrittenLog.of(4, 4)
        first, _ = names(log)
        del log.files[first][-1:]

        with pytest.raises(BadLine, match="the end of the file is missing") as caught:
            verify(log.files)
        assert caught.value.file == first

    def test_a_file_is_cut_off_within_a_line(self) -> None:
        log = WrittenLog.of(4, 4)
        first, _ = names(log)
        log.files[first][-1] = log.files[first][-1][:20]

        with pytest.raises(BadLine, match="not complete"):
            verify(log.files)

    def test_a_file_in_the_middle_is_removed(self) -> None:
        log = WrittenLog.of(2, 2, 2)
        _, second, third = names(log)
        del log.files[second]

        with pytest.raises(BadLine, match=f"the next file has to be {second}, not {third}"):
            verify(log.files)

    def test_the_first_file_is_removed(self) -> None:
        log = WrittenLog.of(2, 2)
        first, second = names(log)
        removed = len(log.files.pop(first))

        with pytest.raises(BadLine, match=f"records 1 to {removed} are missing") as caught:
            verify(log.files)
        assert (caught.value.file, caught.value.line) == (second, 1)

    def test_a_first_file_that_was_deleted_because_it_was_old(self) -> None:
        log = WrittenLog.of(2, 2)
        first, _ = names(log)
        lines = log.files.pop(first)
        fields: dict[str, FieldValue] = {"file": first, "first": 1, "last": len(lines), "head": hash_of(lines[-1])}
        log.lines.append(log.chain.record(log.at(), "log.deleted", fields))
        log.checkpoint()

        assert verify(log.files).deleted == len(lines)

    def test_a_deletion_of_another_file_is_not_an_excuse(self) -> None:
        log = WrittenLog.of(2, 2)
        first, _ = names(log)
        lines = log.files.pop(first)
        log.lines.append(log.chain.record(log.at(), "log.deleted", {"last": len(lines), "head": "0" * 64}))

        with pytest.raises(BadLine, match="are missing"):
            verify(log.files)

    def test_an_unsigned_line_about_a_deletion_is_not_an_excuse(self) -> None:
        """Anybody who can write the files can append it, without any private key."""
        log = WrittenLog.of(2, 2)
        first, _ = names(log)
        lines = log.files.pop(first)
        fields: dict[str, FieldValue] = {"file": first, "first": 1, "last": len(lines), "head": hash_of(lines[-1])}
        log.lines.append(log.chain.record(log.at(), "log.deleted", fields))

        with pytest.raises(BadLine, match="are missing"):
            verify(log.files)

    def test_a_file_that_only_names_the_trusted_key(self) -> None:
        """The public key is not secret, so a forger can name it as that of the next file."""
        trusted = SigningKey.generate()
        forged = WrittenLog.of(2)
        forged.lines.append(forged.chain.continued(forged.at(), trusted.public))
        forged.begin_file(forged.chain.position, trusted)
        forged.records(2)

        with pytest.raises(BadLine, match="none of the given keys has signed"):
            verify(forged.files, [trusted.public])
        forged.checkpoint()
        assert verify(forged.files, [trusted.public]).is_trusted

    def test_the_last_file_is_removed(self) -> None:
        """Only a witness proves this. Otherwise the program may have been killed."""
        log = WrittenLog.of(2, 2)
        _, last = names(log)
        noted = [signed(log)]
        log.files.pop(last)

        (note,) = verify(log.files).notes
        assert f"the file {last}, which has to follow, is missing" in note
        with pytest.raises(BadLine, match="the end was cut off, or an older copy was restored"):
            verify(log.files, witnessed=noted)

    def test_an_old_state_of_a_file_is_put_back(self) -> None:
        log = WrittenLog.of(3)
        (name,) = names(log)
        old = list(log.lines)
        log.records(3)
        log.rotate()
        log.checkpoint()
        log.files[name] = old

        with pytest.raises(BadLine, match="the end of the file is missing") as caught:
            verify(log.files)
        assert caught.value.file == name

    def test_a_file_takes_the_place_of_another_one(self) -> None:
        log = WrittenLog.of(3, 3)
        first, second = names(log)
        log.files[second] = list(log.files[first])

        with pytest.raises(BadLine, match="renamed"):
            verify(log.files)

    def test_a_file_of_the_same_number_from_another_log(self) -> None:
        log, other = WrittenLog.of(3, 3), WrittenLog.of(3, 3)
        _, second = names(log)
        log.files[second] = other.files[second]

        with pytest.raises(BadLine, match="a key other than") as caught:
            verify(log.files)
        assert (caught.value.file, caught.value.line) == (second, 1)

    def test_lines_after_the_end_of_a_file(self) -> None:
        log = WrittenLog.of(3, 3)
        first, _ = names(log)
        end = json.loads(log.files[first][-1])
        forged = Chain(log.keys[0], Position(end["seq"], hash_of(log.files[first][-1])))
        log.files[first].append(forged.record(log.at(), "stream.closed", {}))

        with pytest.raises(BadLine, match="after the end of the file"):
            verify(log.files)

    def test_a_log_without_lines_is_bad(self) -> None:
        with pytest.raises(BadLine, match="there is no line"):
            verify({})
        with pytest.raises(BadLine, match="there is no line"):
            verify({file_name(1): []})


class TestOldKeys:
    """The key of a file signs only the lines of that file."""

    def test_the_key_of_a_later_file_cannot_sign_an_earlier_one(self) -> None:
        log = WrittenLog.of(3)
        name, lines = names(log)[0], log.lines
        stolen = SigningKey.generate()
        _edit(lines, 3)
        forged = Chain(stolen, Position(json.loads(lines[3])["seq"], hash_of(lines[3])))
        lines[4:] = [forged.checkpoint(log.at())]
        _chained_again(lines, 3)

        with pytest.raises(BadLine, match="not signed with the key of this file"):
            verify({name: lines}, [log.keys[0].public])

    def test_the_key_of_an_earlier_file_does_not_sign_a_later_one(self) -> None:
        log = WrittenLog.of(3, 3)
        old = Chain(log.keys[0], log.chain.position)
        log.lines.append(old.checkpoint(log.at()))

        with pytest.raises(BadLine, match="not signed with the key of this file"):
            verify(log.files)

    def test_a_later_file_that_names_the_earlier_key(self) -> None:
        log = WrittenLog.of(3, 3)
        _, second = names(log)
        begin = Position(json.loads(log.lines[0])["seq"] - 1, json.loads(log.lines[0])["prev"])
        log.begin_file(begin, log.keys[0])
        assert names(log)[1] == second

        with pytest.raises(BadLine, match="a key other than the one in the last line of the file before it"):
            verify(log.files)


class TestWitnesses:
    """Checkpoints that another sink has kept."""

    def test_a_log_that_agrees_with_its_checkpoints_is_witnessed_up_to_the_last(self) -> None:
        log = WrittenLog.of(5)
        noted = [Checkpoint(log.log_id, number, hash_of(log.lines[number - 1])) for number in (2, 5)]
        noted.append(Checkpoint("fedcba9876543210", 4, "0" * 64))  # of another log

        assert verify(log.files, witnessed=noted).witnessed_up_to == 5

    def test_another_log_with_valid_signatures_took_the_place_of_this_one(self) -> None:
        log, other = WrittenLog.of(5), WrittenLog.of(5)

        with pytest.raises(
            BadLine, match="the hash of record 4 differs from the one in the checkpoint of the witness"
        ):
            verify(other.files, witnessed=[Checkpoint(log.log_id, 4, hash_of(log.lines[3]))])

    def test_a_signed_one_that_agrees(self) -> None:
        log = WrittenLog.of(3, 3)
        one = signed(log)
        verdict = verify(log.files, witnessed=[one])
        assert (verdict.witnessed_up_to, verdict.notes) == (one.seq, ())

    @pytest.mark.parametrize("where", ["within", "at the end"])
    def test_a_signed_one_that_contradicts(self, where: str) -> None:
        log = WrittenLog.of(5)
        seq = 4 if where == "within" else 99
        with pytest.raises(BadLine, match="witness"):
            verify(log.files, witnessed=[signed(log, seq=seq, head="0" * 64)])

    def test_a_key_that_the_last_line_names_counts_too(self) -> None:
        log = WrittenLog.of(2, 2)
        one = signed(log)
        log.files.pop(names(log)[-1])
        with pytest.raises(BadLine, match="the end was cut off"):
            verify(log.files, witnessed=[one])

    @pytest.mark.parametrize("seq", [4, 99])
    def test_one_that_somebody_else_has_sent_does_not_discredit_the_log(self, seq: int) -> None:
        log = WrittenLog.of(5)
        good, forged = signed(log), signed(log, SigningKey.generate(), seq, "0" * 64)
        broken = attrs.evolve(signed(log, seq=seq, head="0" * 64), signature="A" * 86 + "==")
        unsigned = Checkpoint(log.log_id, seq, "0" * 64)  # from a line that somebody has had written, for example
        verdict = verify(log.files, witnessed=[good, forged, broken, unsigned])
        assert verdict.witnessed_up_to == good.seq
        assert "3 checkpoints of the witness contradict the log" in verdict.notes[0]
        for one in (forged, broken):
            with pytest.raises(BadLine, match="is signed with a key of these files"):
                verify(log.files, witnessed=[one])

    @pytest.mark.parametrize("seq", [4, 99])
    def test_without_any_signature_all_of_them_count(self, seq: int) -> None:
        """A sink has cut long lines, for example."""
        log = WrittenLog.of(5)
        other = attrs.evolve(signed(WrittenLog.of(5)), log_id="fedcba9876543210")
        with pytest.raises(BadLine, match=r"in the checkpoint of the witness|the end was cut off"):
            verify(log.files, witnessed=[other, Checkpoint(log.log_id, seq, "0" * 64)])

    def test_those_of_deleted_records(self) -> None:
        log = WrittenLog.of(2, 2)
        first, second = names(log)
        end = json.loads(log.files[first][-1])["seq"]
        old = Checkpoint(log.log_id, 2, "0" * 64)
        fields: dict[str, FieldValue] = {"last": end, "head": hash_of(log.files[first][-1]), "reason": "size"}
        log.lines.append(log.chain.record(log.at(), "log.deleted", fields))
        log.checkpoint()
        log.files = {second: log.files[second]}
        verdict = verify(log.files, witnessed=[old])
        assert verdict.deleted_for == ("size",)
        assert verdict.notes == ("the witness has 1 checkpoints of records that the log itself has deleted",)

    def test_nothing_is_about_this_log(self) -> None:
        log = WrittenLog.of(5)

        with pytest.raises(BadLine, match="this is another log"):
            verify(log.files, witnessed=[Checkpoint("fedcba9876543210", 4, hash_of(log.lines[3]))])

    def test_a_file_of_another_log_with_the_key_of_this_one(self) -> None:
        log = WrittenLog.of(2, 2)
        _, second = names(log)
        begin = Position(json.loads(log.lines[0])["seq"] - 1, json.loads(log.lines[0])["prev"])
        log.log_id = "fedcba9876543210"
        log.begin_file(begin, log.keys[1])
        assert names(log)[1] == second

        with pytest.raises(BadLine, match="it has a log id other than"):
            verify(log.files)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b"\xff\n",
        b"[" * 60_000 + b"\n",
        b'{"seq":true,"prev":"","at":"","event":""}\n',
        b'{"seq":1e400,"prev":"","at":"","event":""}\n',
        b'{"seq":"1","prev":"","at":"","event":""}\n',
        b'{"seq":1,"prev":1,"at":"","event":""}\n',
        b'{"seq":1,"prev":"","at":"","event":"log.opened","format":1,"log":"a","key":7}\n',
        b'{"seq":-5,"prev":"","at":"","event":"log.opened","format":1,"log":"a","key":"ed25519:x"}\n',
        b" " * MAX_LINE + b"\n",
    ],
    ids=lambda line: line[:30].decode("latin1"),
)
def test_lines_of_other_programs(line: bytes) -> None:
    with pytest.raises(BadLine):
        verify({file_name(1): [line]})


@given(st.binary(max_size=200))
def test_arbitrary_bytes_cause_no_other_error(data: bytes) -> None:
    with pytest.raises(BadLine):
        verify({file_name(1): data.splitlines(keepends=True)})


@given(
    file=st.integers(0, 1),
    line=st.integers(0, 6),
    at=st.integers(0, 400),
    byte=st.binary(min_size=1, max_size=1),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
def test_no_signed_byte_can_be_changed(file: int, line: int, at: int, byte: bytes) -> None:
    """The lines up to the last checkpoint of each file."""
    name = names(_LOG)[file]
    files: Files = {one: list(lines) for one, lines in _LOG.files.items()}
    before = files[name][line]
    at %= len(before)
    if before[at : at + 1] == byte:
        return
    files[name][line] = before[:at] + byte + before[at + 1 :]
    if byte == b"\n" and at < len(before) - 1:
        files[name][line : line + 1] = files[name][line].splitlines(keepends=True)

    with pytest.raises(BadLine):
        verify(files)


_LOG = WrittenLog.of(6, 6)


class TestLines:
    """What lines look like."""

    def test_a_record_is_a_line_of_json_with_its_number_and_the_hash_before_it(self) -> None:
        chain = Chain(SigningKey.generate())
        line = chain.record(time_text(0.5), "stream.closed", {"label": "Zürich\n", "bytes": 7, "reasons": ["a"]})

        assert (
            line
            == (
                '{"seq":1,"prev":"' + "0" * 64 + '","at":"1970-01-01T00:00:00.500Z","event":"stream.closed",'
                '"label":"Zürich\\n","bytes":7,"reasons":["a"]}\n'
            ).encode()
        )
        assert chain.position == Position(1, hash_of(line))

    @pytest.mark.parametrize("text", ["\udce4", "x" * 100_000, "\n\r\0", "\x85\u2028"])
    def test_any_text_is_one_line_of_json(self, text: str) -> None:
        log = WrittenLog.of(0)
        line = log.chain.record(log.at(), "stream.closed", {"detail": text, "more": [text] * 200})
        log.lines.append(line)
        log.checkpoint()

        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert len(line) <= MAX_LINE
        assert verify(log.files, [log.key.public]).end == log.chain.position

    def test_many_long_texts_are_left_out_together(self) -> None:
        fields = {f"field{number}": "x" * 4096 for number in range(20)}
        line = Chain(SigningKey.generate()).record("now", "stream.closed", {"label": "billing", **fields})

        content = json.loads(line)
        assert (content["label"], content["cut"]) == ("billing", True)
        assert len(line) < MAX_LINE

    def test_a_verifier_takes_only_lines_that_are_long_enough(self) -> None:
        verifier = Verifier()
        verifier.begin_file(file_name(1))
        with pytest.raises(BadLine, match="first line of the file is not complete"):
            verifier.feed(b"")
