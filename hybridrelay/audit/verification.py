"""Checking audit files: that no line was changed, removed, inserted or moved, and who has signed them.

`Verifier` gets the lines of all files in their order, and finds the first line that is wrong. It does no I/O.
docs/audit.md says what can be found out, and what cannot.

Each line is a record. Its number in the log is the number of the record, and its number in the file that of the line.
"""

# This module is long because each kind of line has its check here.

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import attrs
import msgspec

from .._value import Value
from .chain import (
    FORMAT,
    MAX_LINE,
    START,
    Checkpoint,
    Position,
    checkpoint_message,
    continued_message,
    file_name,
    file_number,
    hash_of,
)
from .keys import VerifyingKey
from .lines import end_of_file

__all__ = ["BadLine", "FileReport", "Verdict", "Verifier"]


class BadLine(Exception):
    """The first line that is wrong.

    Attributes:
        file: its file.
        line: its number in the file, from 1.
        problem: what is wrong, as a sentence.
    """

    def __init__(self, file: str, line: int, problem: str) -> None:
        super().__init__(f"{file}, line {line}: {problem}")
        self.file = file
        self.line = line
        self.problem = problem


@attrs.frozen
class FileReport(Value):
    """One file that was checked."""

    name: str
    #: The numbers of its first and last record in the log.
    first: int
    last: int
    key: VerifyingKey


@attrs.frozen
class Verdict(Value):
    """What is known of files in which no line is wrong."""

    files: tuple[FileReport, ...]
    #: The id of the log.
    log_id: str
    #: The last record.
    end: Position
    #: The time of the first and of the last record; empty if there is none.
    begun_at: str
    ended_at: str
    #: The number of the last record that a signature covers. Later ones could have been changed or removed unnoticed.
    signed_up_to: int
    #: Whether one of the keys that the caller trusts has signed. Otherwise the files may have been replaced as a
    #: whole.
    is_trusted: bool
    #: How many records at the beginning the log itself has deleted, as a signed record says.
    deleted: int
    #: The reasons that signed records give for deletions: ``age``, ``size``; sorted.
    deleted_for: tuple[str, ...]
    #: The number of the last record for which the witness has a checkpoint that agrees; 0 if there is none.
    witnessed_up_to: int
    #: What an auditor should know although no line is wrong, as sentences.
    notes: tuple[str, ...]


@attrs.define
class _File:
    name: str
    key: VerifyingKey
    first: int
    lines: int = 0


@attrs.define
class Verifier:
    """Checks lines one after the other. After a `BadLine`, it must not be used any more.

    Args:
        trusted: the public keys that the caller trusts. If there are any, one of them has to have signed.
        witnessed: the checkpoints that a witness (another sink, or a relay) has kept. If there are any, at least
            one has to belong to this log. A checkpoint that contradicts the lines counts only if it is signed with a
            key of this log: otherwise anybody who can send checkpoints to the relay, or get a line into the log of
            the sink, could discredit this log. There is one exception: if no checkpoint of this log has its
            signature, because the sink has truncated its lines, all of them count.
    """

    trusted: Collection[VerifyingKey] = ()
    witnessed: Collection[Checkpoint] = ()
    _files: list[FileReport] = attrs.field(factory=list, init=False)
    _file: _File | None = attrs.field(default=None, init=False)
    _name: str = attrs.field(default="", init=False)
    #: The number of the current line in its file.
    _line: int = attrs.field(default=0, init=False)
    _end: Position = attrs.field(default=START, init=False)
    #: The record before the first one that exists; None before any line was read.
    _begin: Position | None = attrs.field(default=None, init=False)
    _signed_up_to: int = attrs.field(default=0, init=False)
    #: What the last line of the current file names: the next file, and the public key of that file (as text). None
    #: before that line was read.
    _continued: tuple[str, str] | None = attrs.field(default=None, init=False)
    #: The keys with which a signature was verified. A file that only names a key proves nothing: anybody can do that.
    _signers: set[VerifyingKey] = attrs.field(factory=set, init=False)
    #: The last positions of files that the log itself has deleted, with the reason, according to lines that no
    #: signature covers yet.
    _said_to_be_deleted: dict[Position, str] = attrs.field(factory=dict, init=False)
    #: The same, according to signed lines.
    _deleted: dict[Position, str] = attrs.field(factory=dict, init=False)
    #: The key that the chain of deleted files vouches for, which starts from a trusted key, and the name of the file
    #: that this key is for; None if there is no such chain.
    _led_to: tuple[VerifyingKey, str] | None = attrs.field(default=None, init=False)
    #: The id of the log; empty before the first line.
    _log_id: str = attrs.field(default="", init=False)
    _begun_at: str = attrs.field(default="", init=False)
    _ended_at: str = attrs.field(default="", init=False)
    #: Whether the last line that was read has no line end.
    _is_torn: bool = attrs.field(default=False, init=False)
    #: The checkpoints of the witness by the number of the last record that they cover.
    _by_seq: dict[int, list[Checkpoint]] = attrs.field(factory=dict, init=False)
    #: The logs for which the witness has checkpoints with a signature.
    _signed_logs: set[str] = attrs.field(factory=set, init=False)
    _witnessed_up_to: int = attrs.field(default=0, init=False)
    #: How many checkpoints contradict the lines, and are not signed with a key of this log.
    _unproven: int = attrs.field(default=0, init=False)
    _notes: list[str] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._signed_logs.update(one.log_id for one in self.witnessed if one.signature)
        for one in self.witnessed:
            self._by_seq.setdefault(one.seq, []).append(one)

    def earlier_key(self, line: bytes) -> None:
        """Follow the trusted keys through a file that was deleted.

        Call this for each deleted file, the oldest first, before `begin_file`.

        Args:
            line: the last line of the file, which is signed with its key and names the next one. A wrong
                line breaks the chain.
        """
        content = end_of_file(line)
        if content is None:
            self._led_to = None
            return
        covers = content["covers"]
        seq, head, at = covers.get("seq"), str(covers.get("head")), str(covers.get("at"))
        message = continued_message(seq, head, at, str(content.get("next")), str(content.get("new_key")))
        signers = self.trusted if self._led_to is None else (self._led_to[0], *self.trusted)
        self._led_to = None
        if any(key.verifies(str(content.get("sig")), message) for key in signers):
            with contextlib.suppress(ValueError):
                self._led_to = VerifyingKey.parse(str(content.get("new_key"))), str(content.get("next"))

    def begin_file(self, name: str) -> None:
        """Continue with the next file.

        Args:
            name: its name without the ending ``.gz``.

        Raises:
            BadLine: it does not follow the one before it.
        """
        before = self._file
        if before is not None:
            if self._is_torn:
                raise BadLine(before.name, self._line, "the line is not complete, although another file follows")
            if self._continued is None:
                raise BadLine(
                    before.name,
                    max(1, self._line),
                    "the end of the file is missing: it does not say that another file continues it",
                )
            if self._continued[0] != name:
                raise BadLine(before.name, self._line, f"the next file has to be {self._continued[0]}, not {name}")
            self._files.append(FileReport(before.name, before.first, self._end.seq, before.key))
        self._name, self._line, self._file = name, 0, None

    def feed(self, line: bytes) -> None:
        """Check the next line of the current file.

        Args:
            line: the line with its line end. Only the last line of a file may lack it.

        Raises:
            BadLine: this line is wrong, or the one before it.
        """
        self._line += 1
        if self._is_torn:
            self._fail("there is a line after one that is not complete")
        if not line.endswith(b"\n"):
            if self._file is None:
                self._fail("the first line of the file is not complete")
            self._is_torn = True
            return
        if len(line) > MAX_LINE:
            self._fail("the line is too long, so this program has not written it")
        content = self._parse(line)
        if self._file is None:
            self._first_line(content)
        elif self._continued is not None:
            self._fail("there is a line after the end of the file")
        self._check_place(content)
        self._end = Position(content["seq"], hash_of(line))
        self._check_witness()
        self._begun_at = self._begun_at or content["at"]
        self._ended_at = content["at"]
        match content["event"]:
            case "log.checkpoint":
                self._check_checkpoint(content)
            case "log.continued":
                self._check_continued(content)
            case "log.deleted":
                self._note_deleted(content)
            case "log.resumed":
                self._note_resumed(content)
            case "audit.records-lost":
                self._note_lost(content)

    def finish(self) -> Verdict:
        """Return what is known when all lines of all files have been checked.

        Raises:
            BadLine: lines are missing at the beginning, no trusted key has signed, or records that a
                checkpoint of the witness covers are missing.
        """
        if self._file is None:
            raise BadLine(self._name or "the directory", 1, "there is no line")
        self._files.append(FileReport(self._file.name, self._file.first, self._end.seq, self._file.key))
        first = self._files[0]
        begin = self._begin
        assert begin is not None
        if begin != START and begin not in self._deleted:
            raise BadLine(
                first.name,
                1,
                f"records 1 to {begin.seq} are missing, and no signed record says that they were deleted",
            )
        is_trusted = not self._signers.isdisjoint(self.trusted) or self._led_to == (first.key, first.name)
        if self.trusted and not is_trusted:
            raise BadLine(
                first.name,
                1,
                "none of the given keys has signed any of these files: they are not the files that were expected, or "
                "the files of that key were removed",
            )
        self._check_witness_as_a_whole(first, begin)
        if self._continued is not None:
            self._notes.append(
                f"the file {self._continued[0]}, which has to follow, is missing: the program was killed before it "
                "began that file, or the newest files were removed"
            )
        if self._is_torn:
            self._notes.append(
                f"the last line of {self._file.name} is not complete: the program is writing it now, or was killed "
                "while it was writing it"
            )
        return Verdict(
            tuple(self._files),
            self._log_id,
            self._end,
            self._begun_at,
            self._ended_at,
            self._signed_up_to,
            is_trusted,
            begin.seq,
            tuple(sorted(set(self._deleted.values()))),
            self._witnessed_up_to,
            tuple(self._notes),
        )

    # --- the parts of a line

    def _fail(self, problem: str, line: int | None = None) -> NoReturn:
        raise BadLine(self._name, self._line if line is None else line, problem)

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        try:
            content = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._fail("it is not JSON")
        if not isinstance(content, dict):
            self._fail("it is not a JSON object")
        for name, type_ in (("seq", int), ("prev", str), ("at", str), ("event", str)):
            if type(content.get(name)) is not type_:
                self._fail(f"it has no {name}")
        return content

    def _first_line(self, content: Mapping[str, Any]) -> None:
        seq = content["seq"]
        if content["event"] != "log.opened":
            self._fail("the first line of the file is missing")
        if content.get("format") != FORMAT:
            self._fail("the file has a format that this version does not know")
        if file_number(self._name) != seq or self._name != file_name(seq):
            self._fail(f"the file was renamed: its first record has the number {seq}")
        try:
            key = VerifyingKey.parse(str(content.get("key")))
        except ValueError:
            self._fail("it names no key")
        if self._continued is not None and str(key) != self._continued[1]:
            self._fail("it names a key other than the one in the last line of the file before it")
        if self._begin is None:
            if seq < 1 or (seq == 1 and content["prev"] != START.head):
                self._fail("it is not the beginning of a log")
            self._begin = self._end = Position(seq - 1, content["prev"])
        log = content.get("log")
        if not isinstance(log, str) or not log or (self._log_id and log != self._log_id):
            self._fail("it has a log id other than the one in the files before it")
        self._log_id = log
        self._continued = None
        self._file = _File(self._name, key, seq)

    def _check_place(self, content: Mapping[str, Any]) -> None:
        """Check that a line follows the one before it."""
        seq, prev = content["seq"], content["prev"]
        if seq != self._end.seq + 1:
            self._fail(
                f"records were removed, inserted or moved: this one has number {seq} instead of {self._end.seq + 1}"
            )
        if prev != self._end.head:
            if self._line == 1:
                self._fail("it does not continue the file before it: one of the two files was changed or replaced")
            self._fail(
                "it does not have the hash that the next line states: one of the two was changed", self._line - 1
            )

    def _check_covers(self, content: Mapping[str, Any]) -> str:
        """Check what a signature covers, and return its time."""
        covers = content.get("covers")
        if (
            not isinstance(covers, dict)
            or covers.get("seq") != content["seq"] - 1
            or covers.get("head") != content["prev"]
            or not isinstance(covers.get("at"), str)
        ):
            self._fail("its signature covers records other than those before it")
        at: str = covers["at"]
        return at

    def _check_checkpoint(self, content: Mapping[str, Any]) -> None:
        at = self._check_covers(content)
        self._check_signature(content, checkpoint_message(content["seq"] - 1, content["prev"], at))

    def _check_continued(self, content: Mapping[str, Any]) -> None:
        at = self._check_covers(content)
        next_file, new_key = str(content.get("next")), str(content.get("new_key"))
        message = continued_message(content["seq"] - 1, content["prev"], at, next_file, new_key)
        self._check_signature(content, message)
        self._continued = next_file, new_key

    def _check_signature(self, content: Mapping[str, Any], message: bytes) -> None:
        assert self._file is not None
        if not self._file.key.verifies(str(content.get("sig")), message):
            self._fail(
                "it is not signed with the key of this file: it is forged, or records after number "
                f"{self._signed_up_to} were changed"
            )
        self._signed_up_to = content["seq"] - 1
        self._signers.add(self._file.key)
        self._deleted.update(self._said_to_be_deleted)
        self._said_to_be_deleted.clear()

    def _check_witness(self) -> None:
        """Check the current record against the checkpoints of the witness."""
        assert self._file is not None
        for one in self._by_seq.get(self._end.seq, ()):
            if one.log_id != self._log_id:
                continue
            if one.head == self._end.head:
                self._witnessed_up_to = self._end.seq
            elif self._counts(one, (self._file.key,)):
                self._fail(
                    f"the hash of record {self._end.seq} differs from the one in the checkpoint of the witness"
                )
            else:
                self._unproven += 1

    def _counts(self, one: Checkpoint, keys: Collection[VerifyingKey]) -> bool:
        """Return whether a checkpoint that contradicts the lines proves something against them."""
        if not one.signature:
            return one.log_id not in self._signed_logs
        return any(one.is_signed_with(key) for key in keys)

    def _check_witness_as_a_whole(self, first: FileReport, begin: Position) -> None:
        """Check, after the last line, that no record is missing that a checkpoint of the witness covers."""
        of_this_log = [one for one in self.witnessed if one.log_id == self._log_id]
        if self.witnessed and not of_this_log:
            raise BadLine(first.name, 1, "no checkpoint of the witness belongs to this log: this is another log")
        keys = {file.key for file in self._files}
        if self._continued is not None:
            with contextlib.suppress(ValueError):
                keys.add(VerifyingKey.parse(self._continued[1]))
        late = [one for one in of_this_log if one.seq > self._end.seq]
        proven = [one.seq for one in late if self._counts(one, keys)]
        if proven:
            raise BadLine(
                self._name,
                self._line,
                f"the log ends with record {self._end.seq}, but the witness has a checkpoint of record "
                f"{max(proven)}: the end was cut off, or an older copy was restored",
            )
        self._unproven += len(late)
        early = sum(one.seq <= begin.seq for one in of_this_log)
        if self._unproven and not self._witnessed_up_to and not early:
            raise BadLine(
                first.name, 1, "no checkpoint of the witness is signed with a key of these files: this is another log"
            )
        if early:
            self._notes.append(f"the witness has {early} checkpoints of records that the log itself has deleted")
        if self._unproven:
            self._notes.append(
                f"{self._unproven} checkpoints of the witness contradict the log, and are not signed with a key of "
                "these files: somebody else has sent them, or all files of the key that signed them are missing"
            )

    # --- lines about the log itself

    def _note_deleted(self, content: Mapping[str, Any]) -> None:
        last, head = content.get("last"), content.get("head")
        if "missing_from" in content:
            self._fail(
                f"when the log deleted {content.get('file')}, the records from {content['missing_from']} on were "
                "already missing: somebody has removed them"
            )
        if isinstance(last, int) and isinstance(head, str):
            self._said_to_be_deleted[Position(last, head)] = str(content.get("reason", "age"))

    def _note_resumed(self, content: Mapping[str, Any]) -> None:
        unsigned = content.get("unsigned_from")
        removed = content.get("removed_bytes")
        if isinstance(unsigned, int):
            self._notes.append(
                f"before record {content['seq']}, the program ended without signing: the records from {unsigned} on "
                f"were signed only when it had started again, at {content['at']}"
            )
        if isinstance(removed, int) and removed > 0:
            self._notes.append(
                f"before record {content['seq']}, an incomplete line of {removed} bytes was removed: the program was "
                "killed while it wrote it"
            )

    def _note_lost(self, content: Mapping[str, Any]) -> None:
        self._notes.append(
            f"record {content['seq']} says that {content.get('records')} records could not be written and are missing"
        )
