"""Changing keys of a hybrid connection, together with the files that contain them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from .._value import Value
from ..errors import ConfigurationError, OutcomeUnknown
from ..security import KeySlot, Right, Rule, Secret, generate_key, key_fingerprint
from .changes import TRY_AGAIN, IncompleteChange, attempted, change_with_files, nothing, only_change_of
from .files_with_keys import AuthorityFileWithKeys, FileWithKeys, read_file_with_keys, read_key
from .new_files import check_new_files
from .registry import Registry, RuleInfo

#: No key has this generation, so a request that changes a key of this generation changes nothing.
_NO_GENERATION = 2**53 - 1


@attrs.frozen
class RevokedKey(Value):
    """What `revoke_key` did."""

    #: The fingerprint of the key that was revoked; None if the slot was already empty.
    ended: str | None
    #: The hosts of all relays of the hybrid connection. The key was revoked at only one of them.
    hosts: tuple[str, ...]
    #: Whether the rule has another key.
    has_other_key: bool


def revoke_key(
    registry: Registry, name: str, rule: str, slot: KeySlot, *, before_change: Callable[[], None] = nothing
) -> RevokedKey:
    """Revoke a rule's key. Everything that it had authorized ends.

    Args:
        registry: the relay's registry.
        name: the hybrid connection.
        rule: one of its rules.
        slot: which of the rule's two keys.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such hybrid connection or rule; the message lists those that exist.
    """
    with attempted(lambda: registry.revoke_key(name, rule, slot, generation=_NO_GENERATION)):
        known = registry.connection(name)
        of_rule = known.rule(rule)
    before_change()
    registry.revoke_key(name, rule, slot, generation=of_rule.keys[slot].generation)
    return RevokedKey(of_rule.fingerprint(slot), known.hosts, of_rule.fingerprint(slot.other) is not None)


@attrs.frozen
class UnchangedFile(Value):
    """A file that was named for an update but did not need it."""

    path: Path
    #: Whether the file already contains the new key. Otherwise it uses the rule's other key.
    has_new_key: bool


@attrs.frozen
class RegeneratedKey(Value):
    """What `regenerate_key` did."""

    key: Secret
    #: The fingerprint of the key that was replaced; None if the slot was empty before.
    ended: str | None
    #: The hosts of all relays of the hybrid connection. The key was replaced at only one of them.
    hosts: tuple[str, ...]
    updated: tuple[Path, ...]
    unchanged: tuple[UnchangedFile, ...]
    #: Set if not every file could be updated. The key was replaced.
    incomplete: IncompleteChange | None


def regenerate_key(
    registry: Registry,
    name: str,
    rule: str,
    slot: KeySlot,
    *,
    key_file: Path | None = None,
    update: Sequence[Path] = (),
    out: Path | None = None,
    use_command: str = "keys use",
    before_change: Callable[[], None] = nothing,
) -> RegeneratedKey:
    """Replace a rule's key. Everything that the old key had authorized ends.

    Args:
        registry: the relay's registry.
        name: the hybrid connection.
        rule: one of its rules.
        slot: which of the rule's two keys.
        key_file: a file that contains the new key, which was generated at another relay; None generates a key.
        update: connection string files and authority files. Those that contain the old key get the new one.
        out: a file to be created with the new key in it.
        use_command: the command that writes the relay's key into a file, for the remedies of `IncompleteChange` and
            `OutcomeUnknown`.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such hybrid connection or rule; a file is for another one, or contains neither
            of its keys; `out` exists; the rule already has this key, or was changed in the meantime. Nothing was
            changed.
        HybridRelayError: a file cannot be written, or is being changed by another process. Nothing was changed.
        OutcomeUnknown: the relay gave no usable answer. `out` was written, and no other file was changed. The remedy
            says how to find out whether the relay has the new key, and how to continue in both cases.
    """
    check_new_files([out] if out else [])
    key = generate_key() if key_file is None else read_key(key_file)
    with only_change_of(update):
        files = [read_file_with_keys(path, rule) for path in update]
        with attempted(lambda: registry.regenerate_key(name, rule, slot, key, generation=_NO_GENERATION)):
            connection = registry.connection(name)
            known = connection.rule(rule)
        for file in files:
            file.check_owner(name, rule)
        texts = [(file, file.regenerated(known, slot, key)) for file in files]
        try:
            written = change_with_files(
                lambda: registry.regenerate_key(name, rule, slot, key, generation=known.keys[slot].generation),
                before_change=before_change,
                replace={file.path: text for file, text in texts if text is not None},
                create=_key_file(out, key),
                what="the key was regenerated",
                remedy=f"the relay has the new key: once the files can be written, run: {use_command}",
            )
        except OutcomeUnknown as exc:
            raise OutcomeUnknown(
                str(exc),
                remedy=f"check whether it was made: 'keys list' shows the fingerprint {key_fingerprint(key)} if the "
                f"relay has the new key. Then write it into the files: {use_command}. Otherwise repeat the command",
            ) from exc
    unchanged = tuple(UnchangedFile(file.path, file.carries(key)) for file, text in texts if text is None)
    return RegeneratedKey(
        key, known.fingerprint(slot), connection.hosts, written.updated, unchanged, written.incomplete
    )


@attrs.frozen
class RolledKey(Value):
    """What `roll_key` did."""

    key: Secret
    #: The slot of the new key.
    slot: KeySlot
    #: The fingerprint of the old key, which is valid until the roll ends.
    old: str
    #: The hosts of all relays of the hybrid connection. The roll has begun at only one of them.
    hosts: tuple[str, ...]
    updated: tuple[Path, ...]
    #: Set if not every file could be updated. The roll has begun.
    incomplete: IncompleteChange | None


def roll_key(
    registry: Registry,
    name: str,
    rule: str,
    *,
    old: KeySlot | None = None,
    seconds: float,
    waits: bool = False,
    key_file: Path | None = None,
    update: Sequence[Path] = (),
    out: Path | None = None,
    before_change: Callable[[], None] = nothing,
) -> RolledKey:
    """Make a new key, which the relay gives to the programs that use the rule's old one; it then revokes the old one.

    Args:
        registry: the relay's registry.
        name: the hybrid connection.
        rule: one of its rules.
        old: the slot of the key that programs use now; None means the only key, or the one that was used last.
        seconds: how long the old key stays valid at most (seconds).
        waits: see `KeyRoll.waits`.
        key_file, out: as for `regenerate_key`.
        update: authority files, which get the new key.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: there is no such hybrid connection, rule or key; a roll is in progress; programs use the
            key that would be replaced; a file is not an authority file of the hybrid connection; `out` exists.
            Nothing was changed.
        HybridRelayError: a file cannot be written. Nothing was changed.
        OutcomeUnknown: the relay gave no usable answer. `out` was written, and no other file was changed.
    """
    check_new_files([out] if out else [])
    key = generate_key() if key_file is None else read_key(key_file)
    with only_change_of(update):
        files = [read_file_with_keys(path, rule) for path in update]
        for file in files:
            if not isinstance(file, AuthorityFileWithKeys):
                raise ConfigurationError(
                    f"{file.path} is a connection string file",
                    remedy="name only authority files: the programs themselves write the new key into their files",
                )
            file.check_owner(name, rule)
        connection = registry.connection(name)
        known = connection.rule(rule)
        old = key_in_use(known) if old is None else old
        slot, fingerprint = old.other, known.fingerprint(old)
        if fingerprint is None:
            raise ConfigurationError(
                f"the {old} key of rule {rule} of {name} is revoked",
                remedy="name a key that is not revoked; 'keys list' shows which one that is",
            )
        texts = {file.path: file.regenerated(known, slot, key) for file in files}
        written = change_with_files(
            lambda: registry.roll_key(
                name, rule, slot, key, generation=known.keys[slot].generation, seconds=seconds, waits=waits
            ),
            before_change=before_change,
            replace={path: text for path, text in texts.items() if text is not None},
            create=_key_file(out, key),
            what="the roll has begun",
            remedy=f"once the files can be written, run: hybridrelay keys use {name} --rule {rule} --key {slot} "
            "--update FILE",
        )
    return RolledKey(key, slot, fingerprint, connection.hosts, written.updated, written.incomplete)


def key_in_use(rule: RuleInfo) -> KeySlot:
    """Return which of the rule's keys the programs use, as far as the relay knows: the one that was used last.

    Raises:
        ConfigurationError: the rule has no key.
    """
    valid = rule.valid_keys
    if not valid:
        raise ConfigurationError(f"rule {rule.name} has no key", remedy="'keys regenerate' makes one")
    return max(valid, key=lambda slot: (rule.keys[slot].last_used or 0.0, slot is KeySlot.PRIMARY))


@attrs.frozen
class UsedKey(Value):
    """What `use_key` did."""

    key: Secret
    updated: tuple[Path, ...]
    #: Set if not every file could be updated.
    incomplete: IncompleteChange | None


@attrs.frozen
class KeySource(Value):
    """A rule with the keys that are known, and the slot of the key to use."""

    rule: Rule
    slot: KeySlot
    #: Whether both keys of the rule are known. A file that holds a single key does not say whose key it is.
    has_both: bool = True

    @classmethod
    def of_registry(cls, registry: Registry, name: str, rule: str, slot: KeySlot) -> KeySource:
        """Take a key from a relay's registry.

        Raises:
            ConfigurationError: there is no such hybrid connection or rule.
        """
        return cls(registry.rule_with_keys(name, rule), slot)

    @classmethod
    def of_authority_file(cls, path: Path, name: str, rule: str, slot: KeySlot) -> KeySource:
        """Take a key from an authority file.

        Raises:
            ConfigurationError: the file is not an authority file, or belongs to another hybrid connection.
        """
        file = read_file_with_keys(path, rule)
        file.check_owner(name, rule)
        if not isinstance(file, AuthorityFileWithKeys):
            raise ConfigurationError(f"{path} is a connection string file", remedy="name the authority file")
        return cls(file.has, slot)

    @classmethod
    def of_key_file(cls, path: Path, rule: str) -> KeySource:
        """Take a key from a file that contains nothing else.

        Raises:
            ConfigurationError: the file cannot be read, or does not contain a key.
        """
        return cls(Rule(rule, {Right.SEND}, primary=read_key(path)), KeySlot.PRIMARY, has_both=False)


def use_key(
    read_source: Callable[[], KeySource],
    name: str,
    rule: str,
    *,
    update: Sequence[Path],
    out: Path | None = None,
    before_change: Callable[[], None] = nothing,
) -> UsedKey:
    """Write one of a rule's keys into files, in place of the one that they contain. Nothing changes at the relay.

    Args:
        read_source: reads the key. Called when the files have been locked.
        name: the hybrid connection.
        rule: one of its rules.
        update: connection string files and authority files. Authority files get both keys of the rule.
        out: a file to be created with the key in it.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: the key is revoked; a file is for another rule, or is an authority file although only one
            key is known; `out` exists. Nothing was changed.
        HybridRelayError: a file cannot be written, or is being changed by another process. Nothing was changed.
    """
    check_new_files([out] if out else [])
    with only_change_of(update):
        files = [read_file_with_keys(path, rule) for path in update]
        for file in files:
            file.check_owner(name, rule)
        source = read_source()
        _check_source(source, files)
        key = source.rule.key(source.slot)
        if key is None:
            raise ConfigurationError(
                f"the {source.slot} key of rule {rule} of {name} is revoked",
                remedy="make one with 'keys regenerate'",
            )
        written = change_with_files(
            nothing,
            before_change=before_change,
            replace={file.path: file.using(source.rule, source.slot) for file in files},
            create=_key_file(out, key),
            what="the key is unchanged",
            remedy=TRY_AGAIN,
        )
    return UsedKey(key, written.updated, written.incomplete)


def _check_source(source: KeySource, files: Sequence[FileWithKeys]) -> None:
    for file in files:
        if not source.has_both and isinstance(file, AuthorityFileWithKeys):
            raise ConfigurationError(
                f"{file.path} is an authority file, which contains both keys of the rule",
                remedy="update it with --state or --management instead of --key-file",
            )


def _key_file(path: Path | None, key: Secret) -> dict[Path, str]:
    return {} if path is None else {path: key.reveal() + "\n"}
