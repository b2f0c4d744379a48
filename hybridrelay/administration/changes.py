"""Changing a store and files together. Nothing irreversible is done until all files are known to be writable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from .._file_lock import locked_files
from .._replace_file import prepared_replacements, remove_leftovers
from ..errors import HybridRelayError, OutcomeUnknown
from ..events.plain_log import plainly_logged_events
from ..relay.store.store import NotFound
from .new_files import new_files

#: How long a command waits for another one that is changing the same files (seconds).
_LOCK_SECONDS = 30.0
#: What to do if not every file could be changed.
TRY_AGAIN = "make these files writable, and run the command again"


@contextlib.contextmanager
def only_change_of(paths: Iterable[Path]) -> Iterator[None]:
    """Lock these files for the duration of the block against other processes that use this function.

    The files have to be read inside the block, so that two administrators or scripts do not undo each other's
    changes. Temporary files with keys, which a killed command may have left in the same directories, are removed.

    Raises:
        HybridRelayError: another command held the lock for longer than 30 s.
    """
    paths = tuple(paths)
    try:
        with locked_files(paths, seconds=_LOCK_SECONDS):
            for path in paths:
                for removed in remove_leftovers(path):
                    from ..events.program import LeftoverRemoved  # imported here, because it is rarely needed

                    plainly_logged_events().publish(LeftoverRemoved(file=str(removed)))
            yield
    except TimeoutError as exc:
        raise HybridRelayError(
            f"nothing was changed, because another command is changing {exc.filename or 'the files'}",
            remedy="wait until it has ended, and run this command again",
        ) from None


class IncompleteChange(HybridRelayError):
    """A change was made, but not every file was updated. `remedy` says how to complete the change."""


@attrs.frozen
class FilesWritten:
    """What `change_with_files` did."""

    #: The files that have their new content now.
    updated: tuple[Path, ...] = ()
    #: Set if not every file could be updated. The change itself was made.
    incomplete: IncompleteChange | None = None


def nothing() -> None:
    """Do nothing. This is the default for callback parameters."""


@contextlib.contextmanager
def attempted(change: Callable[[], object]) -> Iterator[None]:
    """If the block does not find what has to be changed, attempt the change anyway.

    The attempt fails, too, but the relay records it in the audit log of its management API. Without this, nobody
    could see that someone has tried to change what does not exist.

    Args:
        change: calls the method of the registry that makes the change, with what was not found. It must change
            nothing even if another command creates this at the same moment.

    Raises:
        NotFound: what the block has raised.
    """
    try:
        yield
    except NotFound:
        with contextlib.suppress(HybridRelayError):
            change()
        raise


def change_with_files(
    change: Callable[[], object],
    *,
    before_change: Callable[[], None],
    replace: Mapping[Path, str],
    create: Mapping[Path, str] | None = None,
    what: str,
    remedy: str,
) -> FilesWritten:
    """Prepare all files, make the change, then replace the files.

    Args:
        change: makes the irreversible change. If it raises, no file is changed, and no new file is left, except if it
            raises `OutcomeUnknown`: then the new files of `create` are kept, because the change may have been made.
        before_change: called immediately before `change`. From then on, the caller must not be interrupted until this
            function has returned.
        replace: the new contents of existing files.
        create: the contents of new files. They are written before the change, because they may hold the only copy of
            a new key.
        what: a clause for `IncompleteChange` that says what `change` has done: "the key was regenerated".
        remedy: for `IncompleteChange`: how to complete the change.

    Raises:
        HybridRelayError: a file cannot be written; the message names it. Nothing was changed.
        Exception: whatever `change` raises. No file was changed.
    """
    updated: list[Path] = []
    failed: list[OSError] = []
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as until_changed:
            with _nothing_was_changed():
                prepared = stack.enter_context(prepared_replacements(replace))
                until_changed.enter_context(new_files(create or {}))
            before_change()
            with kept_if_unknown(until_changed):
                change()
        for replacement in prepared:
            try:
                replacement.commit()
            except OSError as exc:
                failed.append(exc)
            else:
                updated.append(replacement.path)
    if not failed:
        return FilesWritten(tuple(updated))
    failures = "; ".join(f"{exc.filename or 'a file'}: {exc.strerror or exc}" for exc in failed)
    incomplete = IncompleteChange(f"{what}, but not every file was updated ({failures})", remedy=remedy)
    incomplete.__cause__ = failed[0]
    return FilesWritten(tuple(updated), incomplete)


def change_files(
    files: Sequence[Path], new_content: Callable[[Path], str], *, before_change: Callable[[], None], what: str
) -> FilesWritten:
    """Change files, and nothing else.

    Args:
        files: the files to be changed; at least one.
        new_content: returns the new content of a file. If it raises, no file is changed.
        before_change: see `change_with_files`.
        what: what each file has afterwards: "the new target".

    Returns:
        Which files were changed; and the error, if not all of them could be.

    Raises:
        HybridRelayError: a file cannot be written, or is being changed by another process. Nothing was changed.
    """
    with only_change_of(files):
        return change_with_files(
            nothing,
            before_change=before_change,
            replace={path: new_content(path) for path in files},
            what=f"the other files have {what}",
            remedy=TRY_AGAIN,
        )


@contextlib.contextmanager
def kept_if_unknown(undoing: contextlib.ExitStack) -> Iterator[None]:
    """If the block raises `OutcomeUnknown`, keep the files that `undoing` would remove after an error."""
    try:
        yield
    except OutcomeUnknown:
        undoing.pop_all().close()
        raise


@contextlib.contextmanager
def _nothing_was_changed() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise HybridRelayError(
            f"nothing was changed, because {exc.filename or 'a file'} cannot be written: {exc.strerror or exc}",
            remedy="make this file writable, and run the command again",
        ) from exc
