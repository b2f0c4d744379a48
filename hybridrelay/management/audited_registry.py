"""Records in the audit log of the management API what commands do with a relay's store while nobody serves that
API."""

from __future__ import annotations

import getpass
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from .._file_lock import locked_files
from ..administration import (
    ClaimInfo,
    ConnectionInfo,
    Registry,
    RelayDescription,
    RollInfo,
    RuleInfo,
    TokenInfo,
    UpdateInfo,
)
from ..errors import ConfigurationError, StateError
from ..events.plain_log import plainly_logged_events
from ..events.relay_resources import StateFileNotWritten
from ..relay.claims import ClaimState
from ..relay.model import RelayRecord
from ..relay.quotas import Edition, Editions, Limits, Quota
from ..relay.store.store import ChangedMeanwhile, NameTaken, NotFound, QuotaReached
from ..relay.updates import StoredUpdate
from ..security import ClaimKeys, KeySlot, ManagementRole, Right, Rule, Secret
from .audit_entries import DIRECTORY, AuditEntry, Kind, files_of, next_number, remedy_of
from .audit_files import Line
from .auditing import Effect
from .problem_kinds import Problem

__all__ = ["AuditedRegistry"]

#: How long to wait for another command that is writing an entry (seconds).
_LOCK_SECONDS = 5.0
#: Locked while an entry is written, so that each gets a number of its own.
_LOCK_FILE = "local.lock"


class AuditedRegistry:
    """Implements `Registry` with another one, and records each change and each display of keys, even if it fails.

    The entries have the operations that the same calls of the management API would have, and its statuses, but 409
    where the API answers 412, because there is no precondition in a header. They are in separate files, which a relay
    only reads, so that a relay that starts in the meantime cannot lose or repeat one.

    Args:
        registry: the store of the relay.
        state_dir: the state directory of the relay.
        clock: returns seconds since 1970.
    """

    def __init__(self, registry: Registry, state_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._state_dir = state_dir
        self._clock = clock
        # Reading is not recorded.
        self.relay: Callable[[], RelayDescription] = registry.relay
        self.connections: Callable[[], tuple[ConnectionInfo, ...]] = registry.connections
        self.find: Callable[[str], ConnectionInfo | None] = registry.find
        self.connection: Callable[[str], ConnectionInfo] = registry.connection
        self.tokens: Callable[[], tuple[TokenInfo, ...]] = registry.tokens
        self.editions: Callable[[], Editions] = registry.editions
        self.limits_in_force: Callable[[str], Limits] = registry.limits_in_force
        self.roll: Callable[[str, str], RollInfo | None] = registry.roll
        self.updates: Callable[[str], tuple[UpdateInfo, ...]] = registry.updates
        self.claims: Callable[[str], tuple[ClaimInfo, ...]] = registry.claims

    def rule_with_keys(self, name: str, rule: str) -> Rule:
        """See `Registry.rule_with_keys`."""
        with self._recorded("listKeys", connection=name, rule=rule):
            return self._registry.rule_with_keys(name, rule)

    def prepare(self, *, now: float) -> RelayDescription:
        """See `Registry.prepare`. It is not recorded, because it is not a change by an administrator."""
        return self._registry.prepare(now=now)

    def import_(self, record: RelayRecord) -> None:
        """See `Registry.import_`."""
        with self._recorded("putHybridConnection", 201, connection=record.name):
            self._registry.import_(record)

    def refuse_import(self, known: ConnectionInfo) -> None:
        """See `Registry.refuse_import`."""
        with self._recorded("putHybridConnection", connection=known.name):
            self._registry.refuse_import(known)

    def change(
        self,
        known: ConnectionInfo,
        *,
        hosts: Iterable[str] | None = None,
        disabled: bool | None = None,
        quota: Quota | None = None,
    ) -> None:
        """See `Registry.change`."""
        wanted = None if hosts is None else tuple(hosts)
        with self._recorded("patchHybridConnection", connection=known.name) as effect:
            self._registry.change(known, hosts=wanted, disabled=disabled, quota=quota)
            before = known.hosts, known.disabled, known.quota
            effect.is_unchanged = all(
                value in (None, old) for value, old in zip((wanted, disabled, quota), before, strict=True)
            )

    def change_edition(self, known: Edition, *, connections: int | None, limits: Limits) -> Edition:
        """See `Registry.change_edition`."""
        with self._recorded("putEdition") as effect:
            changed = self._registry.change_edition(known, connections=connections, limits=limits)
            effect.is_unchanged = (known.connections, known.limits) == (connections, limits)
            return changed

    def use_edition(self, name: str) -> None:
        """See `Registry.use_edition`."""
        with self._recorded("putEditionOfRelay") as effect:
            effect.is_unchanged = self._registry.editions().in_use == name
            self._registry.use_edition(name)

    def put_rule(self, known: ConnectionInfo, rule: str, rights: Iterable[Right]) -> RuleInfo:
        """See `Registry.put_rule`."""
        before, wanted = known.find_rule(rule), frozenset(rights)
        status = 201 if before is None else 200
        with self._recorded("putAuthorizationRule", status, connection=known.name, rule=rule) as effect:
            effect.is_unchanged = before is not None and before.rights == wanted
            return self._registry.put_rule(known, rule, wanted)

    def delete_rule(self, known: ConnectionInfo, rule: str) -> None:
        """See `Registry.delete_rule`."""
        with self._recorded("deleteAuthorizationRule", 204, connection=known.name, rule=rule):
            self._registry.delete_rule(known, rule)

    def delete(self, known: ConnectionInfo) -> None:
        """See `Registry.delete`."""
        with self._recorded("deleteHybridConnection", 204, connection=known.name):
            self._registry.delete(known)

    def regenerate_key(self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int) -> None:
        """See `Registry.regenerate_key`."""
        with self._recorded("regenerateKeys", connection=name, rule=rule):
            self._registry.regenerate_key(name, rule, slot, key, generation=generation)

    def roll_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int, seconds: float, waits: bool
    ) -> None:
        """See `Registry.roll_key`."""
        with self._recorded("rollKeys", connection=name, rule=rule):
            self._registry.roll_key(name, rule, slot, key, generation=generation, seconds=seconds, waits=waits)

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int) -> None:
        """See `Registry.revoke_key`."""
        with self._recorded("revokeKeys", 204, connection=name, rule=rule) as effect:
            effect.is_unchanged = self._registry.connection(name).rule(rule).fingerprint(slot) is None
            self._registry.revoke_key(name, rule, slot, generation=generation)

    def create_token(
        self, name: str, role: ManagementRole, *, scope: str, seconds: float, now: float
    ) -> tuple[TokenInfo, Secret]:
        """See `Registry.create_token`."""
        with self._recorded("createToken", 201) as effect:
            token, text = self._registry.create_token(name, role, scope=scope, seconds=seconds, now=now)
            effect.token = token.id
            return token, text

    def delete_token(self, id_: str) -> None:
        """See `Registry.delete_token`."""
        with self._recorded("deleteToken", 204, token=id_):
            self._registry.delete_token(id_)

    def add_claim(
        self, name: str, keys: ClaimKeys, sealed: bytes, *, seconds: float, note: str, now: float
    ) -> ClaimInfo:
        """See `Registry.add_claim`."""
        with self._recorded("createClaim", 201, connection=name) as effect:
            effect.claim = keys.id
            return self._registry.add_claim(name, keys, sealed, seconds=seconds, note=note, now=now)

    def revoke_claim(self, name: str, id_: str) -> None:
        """See `Registry.revoke_claim`."""
        with self._recorded("revokeClaim", 204, connection=name) as effect:
            effect.claim = id_
            effect.is_unchanged = all(
                claim.id != id_ or claim.state is not ClaimState.OPEN for claim in self._registry.claims(name)
            )
            self._registry.revoke_claim(name, id_)

    def push_update(self, update: StoredUpdate) -> None:
        """See `Registry.push_update`."""
        with self._recorded("pushUpdate", connection=update.connection):
            self._registry.push_update(update)

    @contextmanager
    def _recorded(
        self, operation: str, status: int = 200, *, connection: str = "", rule: str = "", token: str = ""
    ) -> Iterator[Effect]:
        """Record an operation at the end of the block, with the status that its exception stands for, if any.

        Yields what the block has to complete: what the operation has done.
        """
        effect, is_done = Effect(), False
        try:
            yield effect
            is_done = True
        except BaseException as exc:
            status = _status_of(exc)
            raise
        finally:
            entry = AuditEntry(
                number=0,  # until it is written
                time=round(self._clock(), 3),
                operation=operation,
                caller=f"local {_user()}",
                role=ManagementRole.ADMIN.name.lower(),
                peer="local",
                connection=connection,
                rule=rule,
                token=token or effect.token,
                claim=effect.claim,
                unchanged=effect.is_unchanged and is_done,
                status=status,
                request_id=secrets.token_hex(8),
            )
            self._record(entry)

    def _record(self, entry: AuditEntry) -> None:
        """Write an entry. The operation is over, so a failure is only reported."""
        if not self._state_dir.is_dir():
            return  # there is no relay, and nothing was changed
        directory = self._state_dir / DIRECTORY
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            lock = directory / _LOCK_FILE
            os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            with locked_files([lock], seconds=_LOCK_SECONDS):
                number = next_number(directory, self._clock)
                data = msgspec.json.encode(msgspec.structs.replace(entry, number=number))
                files_of(directory, Kind.LOCAL).append([Line(number, data)])
        except OSError as exc:
            event = StateFileNotWritten(file=str(directory), detail=exc.strerror or str(exc), remedy=remedy_of(exc))
            plainly_logged_events().publish(event)


def _user() -> str:
    """Return the user who runs the command, in the form in which the API names callers on its Unix socket."""
    get = getattr(os, "getuid", None)  # which Windows does not have
    return f"user {getpass.getuser()}" if get is None else f"uid {get()}"


def _status_of(exc: BaseException) -> int:
    """Return the status with which the management API answers a call without preconditions that raises this; 0 if it
    was interrupted."""
    match exc:
        case NotFound():
            return Problem.NOT_FOUND.status
        case NameTaken() | QuotaReached() | ChangedMeanwhile():
            return Problem.CHANGED.status
        case StateError():
            return Problem.UNAVAILABLE.status
        case ConfigurationError():
            return Problem.INVALID.status
        case Exception():
            return Problem.INTERNAL.status
        case _:
            return 0
