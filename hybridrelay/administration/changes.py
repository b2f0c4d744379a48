"""Changes of a store together with files: nothing irreversible happens before all files can be written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from .._file_lock import locked_files
from .._replace_file import prepared_replacements, remove_leftovers
from ..errors import HybridRelayError
from ..events.plain_log import plainly_logged_events
from ..events.program import LeftoverRemoved
from .new_files import new_files

#: How long a command waits for another one that changes the same files (seconds).
_LOCK_SECONDS = 30.0


@contextlib.contextmanager
def only_change_of(paths: Iterable[Path]) -> Iterator[None]:
    """Let no other process change these files in this way during the block, inside which they have to be read.

    Two administrators, or two scripts, must not undo each other's changes. A command that was killed may have left
    new contents, with keys in them, beside the files: these are removed.

    Raises:
        HybridRelayError: another command did not end in time.
    """
    paths = tuple(paths)
    try:
        with locked_files(paths, seconds=_LOCK_SECONDS):
            for path in paths:
                for removed in remove_leftovers(path):
                    plainly_logged_events().publish(LeftoverRemoved(file=str(removed)))
            yield
    except TimeoutError as exc:
        raise HybridRelayError(
            f"nothing was changed, because another command is changing {exc.filename}",
            remedy="wait until it has ended, and run this one again",
        ) from None


class IncompleteChange(HybridRelayError):
    """Something was changed that cannot be taken back, but not every file was updated. `remedy` completes it."""


@attrs.frozen
class FilesWritten:
    """What `change_with_files` did."""

    #: The files that have their new content now.
    updated: tuple[Path, ...] = ()
    #: Set where not every file could be updated. The change itself was made.
    incomplete: IncompleteChange | None = None


def nothing() -> None:
    """For parameters that name something to be called."""


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
        change: what cannot be taken back. Where it raises, every file is as it was.
        before_change: called just before that. From then on, the caller must not be interrupted until it has the
            result.
        replace: the new contents of files that exist.
        create: new files; written before the change, since they may be the only place of a new key.
        what: what has happened once `change` has returned, for `IncompleteChange`: "the key was regenerated".
        remedy: how to complete what is missing then.

    Raises:
        HybridRelayError: a file cannot be written, and nothing was changed; names the file.
        Exception: what `change` raises; nothing was changed.
    """
    updated: list[Path] = []
    failed: list[OSError] = []
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as until_changed:
            with _nothing_was_changed():
                prepared = stack.enter_context(prepared_replacements(replace))
                until_changed.enter_context(new_files(create or {}))
            before_change()
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
    failures = "; ".join(f"{exc.filename}: {exc.strerror}" for exc in failed)
    incomplete = IncompleteChange(f"{what}, but not every file was updated ({failures})", remedy=remedy)
    incomplete.__cause__ = failed[0]
    return FilesWritten(tuple(updated), incomplete)


@contextlib.contextmanager
def _nothing_was_changed() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise HybridRelayError(
            f"nothing was changed, because {exc.filename} cannot be written: {exc.strerror}",
            remedy="make it possible to write this file, and run the command again",
        ) from exc
