"""The audit directory: a chain of lines in files, which stays valid even if the program is killed at any moment.

The newest file is the one that is appended to. When it is large, or another day (UTC) has begun, it ends with a line
that names the next file and the public key of that file. The steps of this change, in this order:

1. ``next.key`` is written: the private key of the next file.
2. The last line of the file is appended, signed with the current key.
3. The next file is written, with its first line.
4. ``signing.key``, the current private key, is overwritten, and ``next.key`` takes its place.

`AuditDirectory.open` continues after any of them. It also removes a line that was not written completely. Afterwards,
only records that were never reported as written may be missing.

Files that have ended are deleted, the oldest first, when they ended more than `keep_days` ago, or when the directory
has reached its maximum size. A clock that is wrong for a while deletes nothing (`_counted_time.py`). The record about
a deletion is signed before the file is deleted. If the program ends between the two, the file is still there, and is
deleted later, with another record.

All methods except `limit` block. Except for `limit` and `compress_next`, they are called by one thread at a time.
After an `OSError`, the same call can be made again.

What is written to a file that was deleted or moved is lost without an error, and a file that was shortened has lost
lines. So the file is looked at before each write. While the program runs, a log whose files are gone is not begun
anew, and one that has lost lines is not continued.
"""

# This module is long because writing, changing files and continuing after a crash are one state machine.

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from .._counted_time import counted
from .._version import __version__
from ..errors import ConfigurationError
from .chain import (
    CHECKPOINT_BYTES,
    MAX_LINE,
    Chain,
    Checkpoint,
    FieldValue,
    Position,
    file_name,
    file_number,
    largest_line,
    time_text,
)
from .disk import AppendedFile, Disk
from .ended import MAX_EARLIER_KEYS_BYTES, EndedFiles
from .key_files import NEXT_KEY, SIGNING_KEY, KeyFiles
from .keys import SigningKey, VerifyingKey
from .lines import content_of
from .record import Record
from .tail import damaged, end_of_lines, line_of, read_tail

__all__ = ["DAY_SECONDS", "AuditDirectory", "Opened"]

DAY_SECONDS: Final = 86_400.0
#: The size at which a file ends (bytes). The last records may exceed it.
MAX_BYTES: Final = 64 << 20
#: The default of how long files are kept (days).
KEEP_DAYS: Final = 400.0
#: The most lines between two checkpoints.
CHECKPOINT_LINES: Final = 256
#: How long a line may be without a checkpoint that covers it (seconds).
CHECKPOINT_SECONDS: Final = 60.0
#: Without lines, there is a checkpoint after this time (seconds), so that an hour in which nothing has happened can
#: be distinguished from one whose lines were removed.
IDLE_SECONDS: Final = 3600.0
#: How often to look for files that are old enough to be deleted (seconds).
DELETION_SECONDS: Final = 600.0

#: What the directory needs besides records: lines about a deletion, the end of a file and the beginning of the next
#: one, and two keys (bytes).
_RESERVED_BYTES = 16 * 1024


@attrs.frozen
class Opened:
    """The state in which `AuditDirectory.open` has found a directory."""

    #: The key of the newest file.
    key: VerifyingKey
    #: Whether the log begins now.
    is_new: bool
    #: The number of bytes of an incomplete line that were removed.
    removed_bytes: int
    #: The number of the first record that the program had not signed when it ended; None if it had signed all.
    unsigned_from: int | None


@attrs.define
class _State:
    """The newest file."""

    chain: Chain
    file: AppendedFile
    name: str
    size: int
    #: The day on which it was begun, in days since 1970.
    day: int
    #: Lines since the last checkpoint, and when that was.
    unsigned: int
    signed_at: float
    #: The number of the first record that has to exist: the audit log has deleted all records before it.
    oldest: int


class AuditDirectory:
    """Appends lines to the files of an audit directory.

    Args:
        disk: the directory.
        clock: returns seconds since 1970.
        max_bytes: the size at which a file ends.
        keep_days: how long files are kept after their end.
        max_total: the maximum size of the directory (bytes). When it is reached, the oldest files are deleted. A file
            ends when it has an eighth of this size, or `max_bytes` if that is less. None: no limit.
        new_key: makes a key.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        clock: Callable[[], float],
        max_bytes: int = MAX_BYTES,
        keep_days: float = KEEP_DAYS,
        max_total: int | None = None,
        new_key: Callable[[], SigningKey] = SigningKey.generate,
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._file_bytes = max_bytes
        self.limit(keep_days=keep_days, max_total=max_total)
        keys = MAX_EARLIER_KEYS_BYTES if max_total is None else min(MAX_EARLIER_KEYS_BYTES, max_total // 16)
        self._ended = EndedFiles(disk, keys)
        #: How many bytes everything except the newest file takes at most; see `EndedFiles.size`.
        self._ended_bytes = 0
        self._new_key = new_key
        self._keys = KeyFiles(disk)
        self._state: _State | None = None
        #: The name of the newest file, and how many of its bytes were reported as written; None at the start.
        self._good: tuple[str, int] | None = None
        #: The last checkpoint that is on the disk; None if this object has signed nothing.
        self.signed: Checkpoint | None = None
        #: When to look for old files again, on `clock`.
        self._deletion_due = 0.0
        #: When each file was begun (seconds since 1970), by its name, for the files that were read.
        self._begun_at: dict[str, float] = {}

    def limit(self, *, keep_days: float, max_total: int | None) -> None:
        """Set `keep_days` and `max_total`. Does not block, and may be called while another thread uses the object."""
        self._keep_seconds = keep_days * DAY_SECONDS
        self._max_total = max_total
        self._max_bytes = self._file_bytes if max_total is None else min(self._file_bytes, max_total // 8)

    @property
    def position(self) -> Position:
        """The last line that is on the disk. Only while the directory is open."""
        assert self._state is not None
        return self._state.chain.position

    @property
    def log_id(self) -> str:
        """The id of the log. Only while the directory is open."""
        assert self._state is not None
        return self._state.chain.log_id

    @property
    def key(self) -> VerifyingKey:
        """The key of the newest file. Only while the directory is open."""
        assert self._state is not None
        return self._state.chain.key.public

    # --- opening

    def open(self) -> Opened:
        """Find the end of the log, or begin it. What an abrupt end has left incomplete is repaired.

        Raises:
            ConfigurationError: another program uses the directory, something was removed from it or changed in it
                (also while this object uses it), or the directory in which it is to be created does not exist.
            OSError: a file cannot be read or written.
        """
        self._drop()
        self._check_not_removed()
        try:
            self._disk.make_directory()
        except FileNotFoundError:
            directory = self._disk.directory
            raise ConfigurationError(
                f"the audit directory {directory} cannot be created, because {directory.parent} does not exist",
                remedy="mount the file system to which it belongs, or create that directory for the user of this "
                "program",
            ) from None
        if not self._disk.lock():
            raise ConfigurationError(
                f"the audit directory {self._disk.directory} is in use by another program",
                remedy="give each program a directory of its own",
            )
        self._forget_unfinished()
        plain = self._plain_files()
        if not plain:
            return self._begin()
        state, removed, unsigned = self._continue(plain)
        self._state = state
        is_new = state.chain.position.seq <= 2  # the program was killed when it had just begun the log
        try:
            opened = Opened(state.chain.key.public, is_new, removed, None if is_new else unsigned)
            if self._good is None and not is_new:
                fields: dict[str, FieldValue] = {"software": f"hybridrelay {__version__}"}
                if removed:
                    fields["removed_bytes"] = removed
                if unsigned is not None:
                    fields["unsigned_from"] = unsigned
                line = state.chain.record(self._now(), "log.resumed", fields)
                self._write([line, state.chain.checkpoint(self._now())], signed=True)
                self.signed = state.chain.signed
        except BaseException:
            self._drop()
            raise
        self._good = state.name, state.size
        self._ended_bytes = self._ended.size()
        return opened

    def _check_not_removed(self) -> None:
        """Check that a log which this object has written to is still there: it must not begin anew without notice."""
        if self._good is None:
            return
        try:
            remain = self._plain_files()
        except (FileNotFoundError, NotADirectoryError):
            remain = []
        if not remain:
            raise ConfigurationError(
                f"the files of the audit directory {self._disk.directory} were deleted or moved while the log was "
                "open",
                remedy="put them back; or find out who has done this, and restart the program, which then begins "
                "another log",
            )

    def _forget_unfinished(self) -> None:
        """Remove what this object had begun to write before an error, and had not reported as written."""
        if self._good is None:
            return
        name, size = self._good
        plain = self._plain_files()
        if plain and plain[-1] == name:
            found = self._disk.size(name)
            if found < size:
                raise damaged(self._disk, f"lines were removed from the end of {name} while the log was open")
            if found > size:
                self._cut(name, size)

    def _plain_files(self) -> list[str]:
        return [name for name in self._disk.names() if file_number(name) is not None and not name.endswith(".gz")]

    def _begin(self) -> Opened:
        """Begin the log, or continue to begin it."""
        names = self._disk.names()
        if any(file_number(name) is not None for name in names) or self._keys.has_current():
            raise damaged(self._disk, "the newest file is missing")
        key = self._keys.following()
        if key is None:
            key = self._new_key()
            self._keys.write_following(key)
        self._state = self._begin_file(Chain(key, log_id=secrets.token_hex(8)), 1)
        self._keys.promote()
        self._good = self._state.name, self._state.size
        return Opened(key.public, is_new=True, removed_bytes=0, unsigned_from=None)

    def _continue(self, plain: list[str]) -> tuple[_State, int, int | None]:
        """Return the state of the newest file, how many bytes were cut off, and the first line that is not signed."""
        name = plain[-1]
        size = self._disk.size(name)
        end = end_of_lines(self._disk, name, size)
        if end == 0:  # the program was killed before it had written the first line
            self._disk.remove(name)
            self._disk.sync_names()
            if len(plain) == 1:
                return self._begun_again(), 0, None
            return self._continue(plain[:-1])
        if end < size:
            self._cut(name, end)
        last, unsigned = read_tail(self._disk, name, end, CHECKPOINT_LINES)
        first = line_of(self._disk, name, self._disk.first_line(name, MAX_LINE))
        try:
            key = VerifyingKey.parse(str(first.get("key")))
        except ValueError:
            raise damaged(self._disk, f"the first line of {name} is not one of an audit file") from None
        signing = self._settle_key(key)
        log_id = str(first.get("log"))
        position = Position(int(last["seq"]), last["hash"])
        chain = Chain(signing, position, log_id)
        oldest = self._oldest(name, first)
        if last["event"] == "log.continued":
            return self._finish_change(chain, str(last.get("new_key")), oldest), size - end, None
        self._keys.erase_following()  # the key that was made for the next file was never used
        file = self._disk.append_to(name)
        state = _State(chain, file, name, end, _day_of(str(first.get("at"))), unsigned, self._clock(), oldest)
        return state, size - end, position.seq - unsigned + 1 if unsigned else None

    def _begun_again(self) -> _State:
        self._begin()
        assert self._state is not None
        return self._state

    def _settle_key(self, wanted: VerifyingKey) -> SigningKey:
        """Return the private key of the newest file. If the change to it was not finished, finish it."""
        following = self._keys.following()
        if following is not None and following.public == wanted:
            self._keys.promote()
            return following
        current = self._keys.current()
        if current is None or current.public != wanted:
            raise damaged(self._disk, f"{SIGNING_KEY} is missing, or is not the key of the newest file")
        return current

    def _finish_change(self, chain: Chain, new_key: str, oldest: int) -> _State:
        """Begin the next file. The last line of the previous file, which names it, has already been written."""
        following = self._keys.following()
        if following is None or str(following.public) != new_key:
            raise damaged(self._disk, f"{NEXT_KEY} is missing, or is not the key for the next file")
        state = self._begin_file(Chain(following, chain.position, chain.log_id), oldest)
        self._state = state
        self._keys.promote()
        return state

    # --- writing

    def append(self, records: Sequence[Record]) -> Position:
        """Append records, and wait until they are on the disk. Begins another file first, if it is time.

        Returns:
            The position of the last line.

        Raises:
            ConfigurationError: see `open`, which is called after an error.
            OSError: none of the records counts as written.
        """
        state = self._ready()
        if self._max_total is not None:
            size = sum(largest_line(record.event, record.fields) for record in records)
            self._make_room(size + CHECKPOINT_BYTES * (len(records) // CHECKPOINT_LINES + 1))
        lines: list[bytes] = []
        try:
            for record in records:
                lines.append(state.chain.record(time_text(record.at), record.event, record.fields))
                if state.unsigned + len(lines) >= CHECKPOINT_LINES:
                    lines.append(state.chain.checkpoint(self._now()))
                    self._write(lines, signed=True, sync=False)
                    lines = []
            self._write(lines)
        except BaseException:
            self._drop()
            raise
        self._good = state.name, state.size
        self.signed = state.chain.signed or self.signed
        return state.chain.position

    def tick(self) -> Position | None:
        """Do what is due without records: a checkpoint, another file, deleting old files. Call it every few seconds.

        Returns:
            The position of the last line if this has written a checkpoint, otherwise None.

        Raises:
            ConfigurationError, OSError: see `append`.
        """
        state = self._ready()
        self._delete_old()
        since = self._clock() - state.signed_at
        if since >= (CHECKPOINT_SECONDS if state.unsigned else IDLE_SECONDS) or since < 0:
            return self.checkpoint()
        return None

    def checkpoint(self) -> Position:
        """Sign all lines so far.

        Raises:
            ConfigurationError, OSError: see `append`.
        """
        state = self._ready()
        try:
            self._write([state.chain.checkpoint(self._now())], signed=True)
        except BaseException:
            self._drop()
            raise
        self._good, self.signed = (state.name, state.size), state.chain.signed
        return state.chain.position

    def close(self) -> None:
        """Write that the program ends, sign this, and let other programs use the directory. Does nothing if the
        directory is not open.

        Raises:
            ConfigurationError, OSError: it could not be signed; see `append`. The directory is closed all the same.
        """
        try:
            if self._state is not None:
                state = self._open_state()
                line = state.chain.record(self._now(), "log.closed", {})
                self._write([line, state.chain.checkpoint(self._now())], signed=True)
        finally:
            self._drop()
            self._good = None
            self._disk.unlock()

    def _ready(self) -> _State:
        """Return the newest file: after an error, or if somebody has changed the directory, find out what is on the
        disk; if it is time, begin another one."""
        state = self._open_state()
        if state.size >= self._max_bytes or state.day != int(self._clock() // DAY_SECONDS):
            try:
                state = self._change_file(state)
            except BaseException:
                self._drop()
                raise
            self._good = state.name, state.size
        return state

    def _open_state(self) -> _State:
        if self._state is not None and not self._state.file.is_in_place(self._state.size):
            self._drop()
            self._disk.unlock()  # the file that is locked may be gone, too
        if self._state is None:
            self.open()
        assert self._state is not None
        return self._state

    def _change_file(self, state: _State) -> _State:
        key = self._new_key()
        self._keys.write_following(key)
        self._write([state.chain.continued(self._now(), key.public)], signed=True)
        state.file.close()
        self._state = None
        self._state = self._begin_file(Chain(key, state.chain.position, state.chain.log_id), state.oldest)
        self._keys.promote()
        self._ended_bytes = self._ended.size()
        return self._state

    def _begin_file(self, chain: Chain, oldest: int) -> _State:
        name = file_name(chain.position.seq + 1)
        now = self._clock()
        # Signed at once, so that the file can be verified with its key from the first moment.
        lines = chain.opened(time_text(now), f"hybridrelay {__version__}", oldest)
        lines += chain.checkpoint(time_text(now))
        file = self._disk.append_to(name)
        try:
            file.write(lines)
            file.sync()
            self._disk.sync_names()
        except BaseException:
            file.close()
            raise
        self.signed = chain.signed
        return _State(chain, file, name, len(lines), int(now // DAY_SECONDS), 0, now, oldest)

    def _write(self, lines: Sequence[bytes], *, signed: bool = False, sync: bool = True) -> None:
        state = self._state
        assert state is not None
        data = b"".join(lines)
        if data:
            state.file.write(data)
            state.size += len(data)
        if sync:
            state.file.sync()
        if signed:
            state.unsigned, state.signed_at = 0, self._clock()
        else:
            state.unsigned += len(lines)

    def _cut(self, name: str, size: int) -> None:
        file = self._disk.append_to(name)
        try:
            file.truncate(size)
            file.sync()
        finally:
            file.close()

    def _drop(self) -> None:
        """Forget what is known of the newest file."""
        if self._state is not None:
            with contextlib.suppress(OSError):
                self._state.file.close()
            self._state = None

    def _now(self) -> str:
        return time_text(self._clock())

    # --- files that have ended

    def _delete_old(self) -> None:
        """Delete files that ended long ago."""
        now = self._clock()
        if self._deletion_due - DELETION_SECONDS <= now < self._deletion_due:
            return
        self._deletion_due = now + DELETION_SECONDS
        for _ in range(self._old_files(now)):
            self._delete_oldest("age")

    def _old_files(self, now: float) -> int:
        """Return how many of the oldest files ended longer ago than files are kept."""
        state, names = self._state, self._ended.names()
        assert state is not None
        if not names:
            return 0
        begun = {name: self._begun_at.get(name) for name in (*names, state.name)}
        self._begun_at = {name: self._seconds_of_first_line(name) if at is None else at for name, at in begun.items()}
        # A file ended when the next one was begun.
        _, *ended, now = counted([*self._begun_at.values(), now])
        return sum(1 for at in ended if at <= now - self._keep_seconds)

    def _seconds_of_first_line(self, name: str) -> float:
        return _seconds_of(str(content_of(self._ended.first_line(name)).get("at")))

    def _make_room(self, needed: int) -> None:
        """Delete the oldest files until `needed` bytes can be appended within the size of the directory."""
        max_total, state = self._max_total, self._state
        if max_total is None:
            return
        assert state is not None
        limit = max_total - needed - _RESERVED_BYTES
        if state.size + self._ended_bytes <= limit:
            return
        self._ended_bytes = self._ended.size()
        while state.size + self._ended_bytes > limit and self._ended.names():
            self._delete_oldest("size")
            self._ended_bytes = self._ended.size()

    def _delete_oldest(self, reason: str) -> None:
        """Delete the oldest file that has ended, after a signed line that says so.

        Args:
            reason: ``age`` or ``size``.
        """
        state, names = self._state, self._ended.names()
        assert state is not None
        name, following = names[0], [*names, state.name][1]
        number, next_number = file_number(name) or 0, file_number(following) or 0
        # If the next file was damaged, the deletion is recorded without a hash, and does not count when the files are
        # verified. They would not pass anyway, and the disk still has to be protected.
        head = content_of(self._ended.first_line(following)).get("prev")
        fields: dict[str, FieldValue] = {
            "file": name,
            "first": number,
            "last": next_number - 1,
            "head": str(head or ""),
            "reason": reason,
        }
        if number > state.oldest:
            fields["missing_from"] = state.oldest  # somebody else has removed files before
        try:
            record = state.chain.record(self._now(), "log.deleted", fields)
            self._write([record, state.chain.checkpoint(self._now())], signed=True)
            self._good, self.signed = (state.name, state.size), state.chain.signed
            self._ended.delete(name)
            state.oldest = next_number
        except BaseException:
            self._drop()
            raise

    def _oldest(self, name: str, first: dict[str, Any]) -> int:
        """Return the number of the first record that has to exist, according to the newest file."""
        names = [*self._ended.names(), name]
        exists = file_number(names[0]) or 0
        known = first.get("oldest")
        if not isinstance(known, int) or known == exists:  # not known if an earlier version has begun the file
            return exists
        for line in self._disk.read(name).splitlines():
            if b'"event":"log.deleted"' in line:
                last = content_of(line).get("last")
                known = max(known, last + 1 if isinstance(last, int) else 0)
        return known

    def compress_next(self) -> bool:
        """See `EndedFiles.compress_next`. May run in another thread at the same time as the other methods."""
        return self._ended.compress_next()


def _day_of(at: str) -> int:
    return int(_seconds_of(at) // DAY_SECONDS)


def _seconds_of(at: str) -> float:
    """Return a time of a line, in seconds since 1970; 0 if it is not a time."""
    try:
        return dt.datetime.fromisoformat(at).timestamp()
    except ValueError:
        return 0.0
