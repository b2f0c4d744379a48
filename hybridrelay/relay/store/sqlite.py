"""The registry: hybrid connections and their keys in an SQLite file, shared by the relay and the commands.

The rules:

1. One process at a time makes changes, each in one transaction. Readers never wait for it (write-ahead log).
2. A key's generation is an AUTOINCREMENT row id. SQLite never uses it again, so a key that was replaced, or deleted
   and created again, can be distinguished from its successor.
3. Deleted data is overwritten (`secure_delete`), in the log as well. Only the names of the latest deleted hybrid
   connections are kept, so that readers need not compare everything. On a file system without shared memory (some
   network and emulated ones), there can be no write-ahead log: SQLite then keeps the replaced pages in a rollback
   journal, which it deletes afterwards, and readers wait for changes.
4. Revoking a key or deleting a hybrid connection works even on a full disk, with space that is reserved for this
   (`Reserve`).
5. If the file was deleted, or replaced by a backup, nothing is changed any more (`OpenedFile`): the change would be
   gone after the next start.

All methods are synchronous: the relay calls them in a thread.
"""

# This module is long because every change of the store is a method of one class. `sqlite_reader.py` has the methods
# that only read.

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ...errors import StateError
from ...events.plain_log import plainly_logged_events
from ...events.relay_resources import StoreBegun, StoreDiskFull
from ...events.stream import EventStream
from ...security import KeySlot, ManagementToken, Right, Rule, Secret, generate_key
from ..claims import Claim, ClaimState, Take, decide_take
from ..model import NO_DESCRIPTION, Description, HybridConnection, KeyRoll, RelayRecord
from ..quotas import NO_QUOTA, Edition, Editions, Limits, Quota
from ..updates import StoredUpdate
from . import claim_rows
from .checks import (
    changed_edition,
    check_edition,
    check_generation,
    check_new_claim,
    check_new_connection,
    check_new_key,
    check_new_roll,
    check_new_token,
    check_new_update,
    check_version,
    name_is_taken,
    no_claim,
    no_token,
    valid_hosts,
    valid_record,
    with_rule,
    without_rule,
)
from .edition_rows import read_editions, set_edition, set_edition_in_use
from .failures import BUSY_TIMEOUT_SECONDS, state_errors, with_reserve
from .opened_file import OpenedFile
from .reserve import Reserve, is_disk_full
from .rows import (
    delete_roll,
    insert_key,
    insert_roll,
    insert_rule,
    rights_text,
    set_description,
    set_disabled,
    set_hosts,
    set_quota,
)
from .schema import prepare_database, transaction, truncate_log
from .sqlite_reader import EXISTS, SQLiteReader
from .state_dir import (
    REGISTRY_FILE,
    can_share_memory,
    ensure_private_file,
    is_registry_missing,
    prepare_state_directory,
)
from .token_rows import delete_token, insert_token, read_tokens, set_last_use
from .update_rows import put_update, read_updates

__all__ = ["SQLiteStore"]

T = TypeVar("T")


class SQLiteStore(SQLiteReader):
    """Implements `Store` with an open file. Only one thread may use it at a time. Close it, or use it in a `with`
    statement.

    Every method raises `StateError` if the file cannot be read or written.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        file: OpenedFile,
        clock: Callable[[], float],
        reserve: Reserve,
        events: EventStream,
    ) -> None:
        """For use by `open` only."""
        super().__init__(database, file, clock)
        self._reserve = reserve
        self._events = events

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
        events: EventStream | None = None,
    ) -> Self:
        """Open the registry of a state directory.

        Args:
            state_dir: the directory. It is created with mode 0700, and the file in it with mode 0600.
            create: whether to create them if they are missing.
            clock: returns seconds since 1970.
            events: the stream to which events are published; None means the log.

        Raises:
            StateError: the registry is missing, unusable, damaged, from a newer version, belongs to another user, or
                is an empty file although a relay has used the directory before. The error has a remedy.
        """
        prepare_state_directory(state_dir, create=create)
        reserve = Reserve(state_dir)
        stream = plainly_logged_events() if events is None else events
        is_lost = is_registry_missing(state_dir)
        registry = with_reserve(
            reserve,
            lambda: cls._open(state_dir, clock, reserve, stream, create=create),
            state_dir / REGISTRY_FILE,
            stream,
        )
        if create:
            reserve.restore()
        if is_lost:
            stream.publish(StoreBegun(file=str(state_dir / REGISTRY_FILE)))
        return registry

    @classmethod
    def _open(
        cls, state_dir: Path, clock: Callable[[], float], reserve: Reserve, events: EventStream, *, create: bool
    ) -> Self:
        path = state_dir / REGISTRY_FILE
        try:
            ensure_private_file(path, create=create)
            file = OpenedFile.at(path)
        except FileNotFoundError:
            raise StateError(
                f"there is no registry in {state_dir}",
                remedy="name the directory that the relay uses, or create a hybrid connection first",
            ) from None
        except OSError as exc:
            raise StateError(
                f"the registry {path} cannot be opened: {exc.strerror or exc}",
                remedy="run the command as the user who owns the state directory",
            ) from exc
        with state_errors(path):
            # Autocommit, because `_change` begins transactions. The relay does not always use the same thread.
            database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                file.check()  # the path still leads to what it led to before `connect`, so that is what is open
                prepare_database(
                    database, path, write_ahead=can_share_memory(state_dir), seconds=BUSY_TIMEOUT_SECONDS
                )
            except BaseException:
                database.close()
                raise
        return cls(database, file, clock, reserve, events)

    def close(self) -> None:
        """See `Store.close`."""
        self._database.close()
        # Not earlier: the last process that closes the file deletes the log and its index, which frees their space.
        self._reserve.restore_released()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- changing

    def create(
        self,
        name: str,
        hosts: Iterable[str],
        rules: Iterable[Rule],
        description: Description = NO_DESCRIPTION,
        *,
        disabled: bool = False,
        quota: Quota = NO_QUOTA,
    ) -> HybridConnection:
        """See `Store.create`."""
        return self._add(valid_record(name, hosts, rules), description, quota, disabled=disabled)

    def import_(self, record: RelayRecord, description: Description = NO_DESCRIPTION) -> HybridConnection:
        """See `Store.import_`."""
        return self._add(record, description, NO_QUOTA, disabled=False)

    def _add(
        self, record: RelayRecord, description: Description, quota: Quota, *, disabled: bool
    ) -> HybridConnection:
        with self._change() as database:
            if database.execute(EXISTS, (record.name,)).fetchone():
                raise name_is_taken(record.name)
            editions = read_editions(database)
            check_new_connection(editions, self.count())
            check_edition(editions, quota.edition)
            database.execute(
                "INSERT INTO connections (name, hosts, created_at) VALUES (?, ?, ?)",
                (record.name, " ".join(record.hosts), self._clock()),
            )
            set_description(database, record.name, description)
            set_disabled(database, record.name, disabled)
            set_quota(database, record.name, quota)
            for rule in record.rules:
                insert_rule(database, record.name, rule)
            self._touch(database, record.name)
        return self.get(record.name)

    def change(
        self,
        name: str,
        *,
        description: Description | None = None,
        hosts: Iterable[str] | None = None,
        disabled: bool | None = None,
        quota: Quota | None = None,
        version: int | None = None,
    ) -> HybridConnection:
        """See `Store.change`. Works on a full disk, too, because disabling must."""
        checked = None if hosts is None else valid_hosts(hosts)
        self._with_reserve(lambda: self._replace(name, description, checked, quota, version, disabled=disabled))
        return self.get(name)

    def _replace(
        self,
        name: str,
        description: Description | None,
        hosts: tuple[str, ...] | None,
        quota: Quota | None,
        version: int | None,
        *,
        disabled: bool | None,
    ) -> None:
        with self._change_of(name, version) as (database, _):
            if description is not None:
                set_description(database, name, description)
            if hosts is not None:
                set_hosts(database, name, hosts)
            if disabled is not None:
                set_disabled(database, name, disabled)
            if quota is not None:
                check_edition(read_editions(database), quota.edition)
                set_quota(database, name, quota)

    def change_edition(
        self, name: str, connections: int | None, limits: Limits, *, version: int | None = None
    ) -> Edition:
        """See `Store.change_edition`."""
        with self._change() as database:
            changed = changed_edition(read_editions(database), name, connections, limits, version)
            set_edition(database, changed)
        return changed

    def use_edition(self, name: str) -> Editions:
        """See `Store.use_edition`."""
        with self._change() as database:
            check_edition(read_editions(database), name)
            set_edition_in_use(database, name)
        return self.editions()

    def put_rule(
        self, name: str, rule: str, rights: Iterable[Right], *, version: int | None = None
    ) -> HybridConnection:
        """See `Store.put_rule`."""
        with self._change_of(name, version) as (database, known):
            (new,) = (one for one in with_rule(known, rule, rights) if one.name == rule)
            if known.rule(rule) is None:
                insert_rule(database, name, new)
            else:
                change = "UPDATE rules SET rights = ? WHERE connection = ? AND name = ?"
                database.execute(change, (rights_text(new), name, rule))
        return self.get(name)

    def delete_rule(self, name: str, rule: str, *, version: int | None = None) -> HybridConnection:
        """See `Store.delete_rule`. Works on a full disk, too."""
        self._with_reserve(lambda: self._delete_rule(name, rule, version))
        return self.get(name)

    def _delete_rule(self, name: str, rule: str, version: int | None) -> None:
        with self._change_of(name, version) as (database, known):
            without_rule(known, rule)
            database.execute("DELETE FROM rules WHERE connection = ? AND name = ?", (name, rule))

    def delete(self, name: str, *, version: int | None = None) -> None:
        """See `Store.delete`. Works on a full disk, too."""
        self._with_reserve(lambda: self._delete(name, version))

    def _delete(self, name: str, version: int | None) -> None:
        with self._change_of(name, version) as (database, _):
            database.execute("DELETE FROM connections WHERE name = ?", (name,))

    def regenerate_key(
        self,
        name: str,
        rule: str,
        slot: KeySlot,
        key: Secret | None = None,
        *,
        generation: int | None = None,
    ) -> Secret:
        """See `Store.regenerate_key`. Works on a full disk, too."""
        key = generate_key() if key is None else key
        self._with_reserve(lambda: self._replace_key(name, rule, slot, key, generation))
        return key

    def roll_key(
        self,
        name: str,
        rule: str,
        slot: KeySlot,
        key: Secret | None = None,
        *,
        seconds: float,
        waits: bool = False,
        generation: int | None = None,
    ) -> Secret:
        """See `Store.roll_key`."""
        key = generate_key() if key is None else key
        with self._change_of(name, None) as (database, known):
            check_new_roll(known, rule, slot)
            self._put_key(database, known, rule, slot, key, generation)
            generations, now = self.get(name).generations, self._clock()
            old, new = generations[rule, slot.other], generations[rule, slot]
            insert_roll(database, name, KeyRoll(rule, slot, old, new, now, now + seconds, waits))
        return key

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int | None = None) -> None:
        """See `Store.revoke_key`. Works on a full disk, too."""
        self._with_reserve(lambda: self._replace_key(name, rule, slot, None, generation))

    def add_token(self, token: ManagementToken) -> None:
        """See `Store.add_token`."""
        with self._change() as database:
            check_new_token(token, read_tokens(database))
            insert_token(database, token)

    def delete_token(self, id_: str) -> None:
        """See `Store.delete_token`. Works on a full disk, too."""
        self._with_reserve(lambda: self._delete_token(id_))

    def _delete_token(self, id_: str) -> None:
        with self._change() as database:
            if not delete_token(database, id_):
                raise no_token(id_)

    def set_last_use_of_tokens(self, uses: Mapping[str, float]) -> None:
        """See `Store.set_last_use_of_tokens`."""
        with self._change() as database:
            set_last_use(database, uses)

    def add_claim(self, claim: Claim) -> None:
        """See `Store.add_claim`."""
        now = self._clock()
        with self._change() as database:
            if not database.execute(EXISTS, (claim.connection,)).fetchone():
                raise self._unknown_connection(claim.connection)
            is_open = "SELECT count(*) FROM claims WHERE sealed IS NOT NULL AND expires_at > ?"
            (open_,) = database.execute(is_open, (now,)).fetchone()
            (ours,) = database.execute(f"{is_open} AND connection = ?", (now, claim.connection)).fetchone()
            is_taken = claim_rows.read_claim(database, claim.id) is not None
            check_new_claim(claim, is_taken=is_taken, open_=open_, open_of_connection=ours, now=now)
            claim_rows.insert_claim(database, claim)
            # Only what is too much: the clock may be wrong.
            claim_rows.sweep_claims(database, claim.connection, -math.inf)

    def take_claim(self, claim_id: str, proof: bytes, taker: str, attempt: bytes = b"") -> Take:
        """See `Store.take_claim`. Reading comes first, so that a wrong guess costs one lookup, and locks nothing."""
        with self._reading():
            take = self._decide_take(claim_id, proof, taker, attempt)
        if take.changed is None:
            return take
        return self._with_reserve(lambda: self._take_claim(claim_id, proof, taker, attempt))

    def _take_claim(self, claim_id: str, proof: bytes, taker: str, attempt: bytes) -> Take:
        with self._change() as database:
            # Again, because another taker may have come in the meantime, at this process or another one.
            take = self._decide_take(claim_id, proof, taker, attempt)
            if take.changed is not None:
                claim_rows.update_claim(database, take.changed)
        return take

    def _decide_take(self, claim_id: str, proof: bytes, taker: str, attempt: bytes) -> Take:
        claim, disabled = claim_rows.read_claim(self._database, claim_id) or (None, False)
        return decide_take(claim, proof, taker, self._clock(), attempt=attempt, disabled=disabled)

    def revoke_claim(self, name: str, claim_id: str) -> bool:
        """See `Store.revoke_claim`. Works on a full disk, too."""
        return self._with_reserve(lambda: self._revoke_claim(name, claim_id))

    def _revoke_claim(self, name: str, claim_id: str) -> bool:
        now = self._clock()
        with self._change() as database:
            claim, _ = claim_rows.read_claim(database, claim_id) or (None, False)
            if claim is None or claim.connection != name:
                raise no_claim(name)
            if claim.state(now) is not ClaimState.OPEN:
                return False
            claim_rows.update_claim(database, claim.revoked(now))
        return True

    def sweep_claims(self, now: float) -> None:
        """See `Store.sweep_claims`. Changes the file only if there is something to delete."""
        with self._reading():
            due = claim_rows.claims_to_sweep(self._database, now)
        for name in due:
            with self._change() as database:
                claim_rows.sweep_claims(database, name, now)

    def put_update(self, update: StoredUpdate) -> None:
        """See `Store.put_update`."""
        with self._change_of(update.connection, None) as (database, _):
            check_new_update(update, tuple(read_updates(database, [update.connection])))
            put_update(database, update)

    # --- private

    def _with_reserve(self, change: Callable[[], T]) -> T:
        return with_reserve(self._reserve, change, self._path, self._events)

    def _replace_key(self, name: str, rule: str, slot: KeySlot, key: Secret | None, generation: int | None) -> None:
        with self._change_of(name, None) as (database, connection):
            self._put_key(database, connection, rule, slot, key, generation)

    def _put_key(
        self,
        database: sqlite3.Connection,
        known: HybridConnection,
        rule: str,
        slot: KeySlot,
        key: Secret | None,
        generation: int | None,
    ) -> None:
        check_generation(known, rule, slot, generation)
        check_new_key(known.name, self.rule(known.name, rule), key)
        delete_roll(database, known.name, rule)
        where = (known.name, rule, slot.value)
        database.execute("DELETE FROM keys WHERE connection = ? AND rule = ? AND slot = ?", where)
        insert_key(database, known.name, rule, slot, key)

    @contextmanager
    def _change_of(self, name: str, version: int | None) -> Iterator[tuple[sqlite3.Connection, HybridConnection]]:
        """Run the block as one transaction that changes a hybrid connection. Yields the hybrid connection as it was
        before."""
        with self._change() as database:
            known = self.get(name)
            check_version(known, version)
            yield database, known
            self._touch(database, name)

    def _touch(self, database: sqlite3.Connection, name: str) -> None:
        """Update version and time of a hybrid connection after a change, which may have been its deletion."""
        database.execute("UPDATE meta SET value = value + 1 WHERE name = 'changes'")
        database.execute(
            "UPDATE connections SET updated_at = ?, "
            "version = (SELECT CAST(value AS INTEGER) FROM meta WHERE meta.name = 'changes') WHERE name = ?",
            (self._clock(), name),
        )

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction: all of it, or nothing."""
        with state_errors(self._path):
            with transaction(self._database):
                self._file.check()  # not earlier: the transaction may have waited for another process
                yield self._database
            # Truncate the log, which still has the old pages, with deleted keys. If a reader prevents this, the next
            # change does it, or the last process that closes the file.
            try:
                truncate_log(self._database)
            except sqlite3.Error as exc:
                if not is_disk_full(exc):
                    raise
                # The change itself is complete: it is in the log.
                self._events.publish(
                    StoreDiskFull(file=str(self._path), detail="deleted keys stay in its log until the next change")
                )
        self._reserve.restore()
