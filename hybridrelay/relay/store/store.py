"""The interface of stores of hybrid connections, and the errors that all implementations share.

`SQLiteStore` is a file that a relay and the commands share. `MemoryStore` is for tests and for programs that embed a
relay. Both pass tests/relay/store/test_conformance.py, as every other store must.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Protocol

from ...errors import ConfigurationError, StateError
from ...security import KeySlot, ManagementToken, Right, Rule, Secret
from ..claims import Claim, OpenClaim, Take
from ..model import NO_DESCRIPTION, Description, HybridConnection, RelayRecord
from ..quotas import NO_QUOTA, Edition, Editions, Limits, Quota
from ..updates import StoredUpdate
from .changes import Changes, Mark

__all__ = [
    "MAX_TOKENS",
    "ChangedMeanwhile",
    "NameTaken",
    "NoConnection",
    "NotFound",
    "QuotaReached",
    "Store",
    "StoreBusy",
]


#: The maximum number of tokens of the management API in a store.
MAX_TOKENS = 1000


class NotFound(ConfigurationError):
    """The store has no such hybrid connection, rule, token, claim or edition. The remedy lists those that exist, or
    says how to list them."""


class NoConnection(NotFound):
    """The store has no hybrid connection with that name. The remedy lists others, which not every caller may see."""


class NameTaken(ConfigurationError):
    """A hybrid connection or a token of that name, or a claim with that id, already exists."""


class QuotaReached(ConfigurationError):
    """The relay has as many hybrid connections as its edition allows. Nothing was changed."""


class ChangedMeanwhile(ConfigurationError):
    """The object has changed since the caller read it. Nothing was changed."""


class StoreBusy(StateError):
    """Another process is changing the store, or keeps it locked. Nothing was changed; trying again may help."""


class Store(Protocol):
    """Hybrid connections, their rules and keys, and a generation for each key.

    A generation is a number that the store never gives to another key, so that a key can be distinguished from one
    that has replaced it (`KeyId.generation`).

    All methods are synchronous, may block for as long as a local file takes, and are called by one thread at a time.
    They raise `StateError` if the store cannot be read or written.
    """

    def close(self) -> None:
        """Release the store's resources. Idempotent."""

    # --- reading

    def data_version(self) -> Hashable:
        """Return a value that differs after every change by this or another process. Cheap, because it is polled."""

    def snapshot(self) -> Mapping[str, HybridConnection]:
        """Return all hybrid connections by name, as an immutable and consistent mapping."""

    def changes(self, since: Mark | None, limit: int) -> Changes:
        """Return what has changed since a mark. Takes time in proportion to the changes, not to the content.

        Args:
            since: from an earlier call. If it is None, or if the store does not know all changes since then, all
                hybrid connections are returned.
            limit: how many changes, and how many deletions, are returned at most.
        """

    def list(self, *, after: str = "", prefix: str = "", limit: int | None = None) -> tuple[HybridConnection, ...]:
        """Return hybrid connections, sorted by name.

        Args:
            after: only those whose names come after this one.
            prefix: only those whose names begin with this.
            limit: the maximum number; None means all.
        """

    def disabled_by_name(self, *, after: str = "", prefix: str = "", limit: int | None = None) -> Mapping[str, bool]:
        """Return whether each hybrid connection is disabled, sorted by name. Much cheaper than `list`.

        Args:
            after, prefix, limit: which hybrid connections; see `list`.
        """

    def exists(self, name: str) -> bool:
        """Return whether there is a hybrid connection with this name."""

    def count(self, prefix: str = "") -> int:
        """Return how many hybrid connections there are whose names begin with this."""

    def created_at_by_name(self, prefix: str = "") -> Mapping[str, float]:
        """Return when each hybrid connection whose name begins with this was created (seconds since 1970), sorted by
        name. Much cheaper than `list`."""

    def get(self, name: str) -> HybridConnection:
        """Return a hybrid connection.

        Raises:
            NotFound: there is none with this name.
        """

    def rule(self, name: str, rule: str) -> Rule:
        """Return a rule of a hybrid connection.

        Raises:
            NotFound: there is no such hybrid connection or rule.
        """

    def tokens(self) -> tuple[ManagementToken, ...]:
        """Return all tokens of the management API, including expired ones, sorted by name."""

    def token(self, id_: str) -> ManagementToken | None:
        """Return the token with this id, or None."""

    def scope_of(self, name: str) -> str:
        """Return the longest scope of a token that covers this name, whether or not a hybrid connection has it; empty
        if none does."""

    def editions(self) -> Editions:
        """Return all editions, sorted by the number of hybrid connections that they allow."""

    def open_claims(self) -> tuple[OpenClaim, ...]:
        """Return the open claims of all hybrid connections, without their contents, sorted by when they expire."""

    def claims(self, name: str) -> tuple[Claim, ...]:
        """Return the claims of a hybrid connection, including ended ones, the latest first.

        Raises:
            NotFound: there is no hybrid connection with this name.
        """

    def updates(self, name: str | None = None) -> tuple[StoredUpdate, ...]:
        """Return the updates of a hybrid connection, or of all (None), sorted by their recipients.

        Raises:
            NotFound: there is no hybrid connection with this name.
        """

    def updates_of(self, names: Collection[str]) -> tuple[StoredUpdate, ...]:
        """Return the updates of these hybrid connections, sorted by their recipients. A hybrid connection that does
        not exist has none: it may be deleted at any time.

        Args:
            names: at most a few hundred.
        """

    # --- changing: each call is atomic, except `sweep_claims`. `version` is the version that the caller has read
    # (`HybridConnection.version`); if it is given and is not the current one, `ChangedMeanwhile` is raised.

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
        """Add a hybrid connection.

        Raises:
            NameTaken: there is one with this name.
            QuotaReached: the relay's edition does not allow another one.
            NotFound: there is no such edition.
            ConfigurationError: the name, a host, or the rules are not valid.
        """

    def import_(self, record: RelayRecord, description: Description = NO_DESCRIPTION) -> HybridConnection:
        """Add a hybrid connection that was created on another machine.

        Raises:
            NameTaken: there is one with this name.
            QuotaReached: the relay's edition does not allow another one.
        """

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
        """Replace the properties of a hybrid connection that are given. None leaves a property as it is.

        If it is disabled, everything that uses it ends, and nothing is accepted until it is enabled again. If its
        hosts change, its keys stay the same, and nothing ends.

        Raises:
            NotFound: there is none with this name, or no such edition.
            ConfigurationError: a host is not valid.
        """

    def change_edition(
        self, name: str, connections: int | None, limits: Limits, *, version: int | None = None
    ) -> Edition:
        """Replace the limits of an edition. What already exceeds the new limits stays, but nothing is added; only
        `Limits.end_at_limit` ends sessions whose bytes are used up.

        Raises:
            NotFound: there is none with this name.
            ChangedMeanwhile: it does not have this `version`.
            ConfigurationError: a limit is not valid.
        """

    def use_edition(self, name: str) -> Editions:
        """Set which edition the relay uses; empty: none.

        Raises:
            NotFound: there is none with this name.
        """

    def put_rule(
        self, name: str, rule: str, rights: Iterable[Right], *, version: int | None = None
    ) -> HybridConnection:
        """Add a rule with two new keys, or change the rights of the one that has this name.

        What a key has authorized ends if its rule loses a right.

        Raises:
            NotFound: there is no hybrid connection with this name.
            ConfigurationError: the name or the rights are not valid, or there are already 12 rules.
        """

    def delete_rule(self, name: str, rule: str, *, version: int | None = None) -> HybridConnection:
        """Delete a rule and its keys. Everything that the keys have authorized ends.

        Raises:
            NotFound: there is no such hybrid connection or rule.
        """

    def delete(self, name: str, *, version: int | None = None) -> None:
        """Delete a hybrid connection with its rules and keys. Everything that belongs to it ends.

        Raises:
            NotFound: there is none with this name.
        """

    def regenerate_key(
        self,
        name: str,
        rule: str,
        slot: KeySlot,
        key: Secret | None = None,
        *,
        generation: int | None = None,
    ) -> Secret:
        """Put a new key into a slot, which may be empty, and return it. What the old key has authorized ends
        immediately.

        Args:
            name: the hybrid connection.
            rule: one of its rules.
            slot: which of the rule's two keys.
            key: a key that was generated at another relay; None generates one.
            generation: the generation of the key that the caller expects in the slot, 0 if it is empty; None accepts
                any.

        Raises:
            NotFound: there is no such hybrid connection or rule.
            ChangedMeanwhile: the key in the slot does not have this `generation`.
            ConfigurationError: the rule already has that key. In two slots, a key would stay valid after it was
                revoked in one of them.
        """

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
        """Put a new key into a slot, and begin to roll the rule's other key, which stays valid in the meantime.

        Args:
            name, rule, slot, key, generation: as for `regenerate_key`.
            seconds: after which time the other key is revoked at the latest.
            waits: see `KeyRoll.waits`.

        Raises:
            NotFound, ChangedMeanwhile: as for `regenerate_key`.
            ConfigurationError: the rule has no other key, already has this key, or a roll is in progress.
        """

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int | None = None) -> None:
        """Revoke the key in a slot. Everything that it has authorized ends immediately. Does nothing if the
        key is already revoked.

        Args:
            name: the hybrid connection.
            rule: one of its rules.
            slot: which of the rule's two keys.
            generation: as for `regenerate_key`.

        Raises:
            NotFound: there is no such hybrid connection or rule.
            ChangedMeanwhile: another key is in the slot.
        """

    def add_token(self, token: ManagementToken) -> None:
        """Add a token of the management API.

        Raises:
            NameTaken: there is one with this name.
            ConfigurationError: there are `MAX_TOKENS` already.
        """

    def delete_token(self, id_: str) -> None:
        """Delete a token. The next request that uses it is refused.

        Raises:
            NotFound: there is none with this id.
        """

    def set_last_use_of_tokens(self, uses: Mapping[str, float]) -> None:
        """Save when tokens were last used: seconds since 1970, by id. Unknown ids are ignored."""

    def add_claim(self, claim: Claim) -> None:
        """Add a claim, which must be open.

        Raises:
            NotFound: there is no such hybrid connection.
            NameTaken: there is a claim with this id.
            ConfigurationError: it is open for too long, or too many are already open.
        """

    def take_claim(self, claim_id: str, proof: bytes, taker: str, attempt: bytes = b"") -> Take:
        """Decide about an attempt to take a claim, and make the change that follows (`decide_take`).

        When this returns the content, the claim is already stored as taken, and the content deleted: nobody gets it
        again, even after a crash.

        Args:
            claim_id: the id of the claim.
            proof: the 32 bytes that the taker has shown.
            taker: the address of the taker.
            attempt: the 16 random bytes that the taker has stated; empty if none.
        """

    def revoke_claim(self, name: str, claim_id: str) -> bool:
        """Revoke an open claim. Its content is deleted.

        Returns:
            Whether it was open.

        Raises:
            NotFound: the hybrid connection has no such claim.
        """

    def sweep_claims(self, now: float) -> None:
        """Delete the content of claims that have expired, and forget those that ended long ago.

        Args:
            now: claims that expire before this time (seconds since 1970) count as expired. A deletion cannot be
                undone, so this time is not simply what the clock shows (`ConfirmedTime.latest`).
        """

    def put_update(self, update: StoredUpdate) -> None:
        """Store an update, in place of an earlier one for the same recipients.

        Raises:
            NotFound: there is no hybrid connection with this name.
            ConfigurationError: there is a later one for these recipients, or there are too many.
        """
