"""Reports that a file of the relay cannot be used at the moment, in `problem` and by events."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...errors import StateError
from ...events.relay_resources import StateFileNotWritten, StateFileSetAside, StateFileWritten
from ...events.stream import EventStream
from ..snapshot import FileProblem, FileProblemCode
from ..store.expendable import ExpendableDatabase

__all__ = ["FileReports"]

#: What to do about a failure that is not one of the file.
_MORE_MEMORY: Final = "free memory"


class FileReports:
    """Publishes an event when a file cannot be used, for each reason once, and when it can be used again.

    Args:
        code: the code of the problem.
        path: the file.
        events: the stream to which events are published.
        what: begins the text of the problem, such as ``the usage is not saved``; may be empty.
        remedy: what to do about a failure that is not one of the file, such as a lack of threads.
    """

    def __init__(
        self, code: FileProblemCode, path: Path, events: EventStream, *, what: str = "", remedy: str = _MORE_MEMORY
    ) -> None:
        self._code: FileProblemCode = code
        self._path = str(path)
        self._events = events
        self._prefix = f"{what}: " if what else ""
        self._remedy = remedy
        #: Why the file cannot be used at the moment; None if it can.
        self.problem: FileProblem | None = None

    def failed(self, exc: Exception) -> FileProblem:
        """Report the exception with which the use of the file has failed."""
        remedy = exc.remedy if isinstance(exc, StateError) and exc.remedy else self._remedy
        return self.failed_because(str(exc) or type(exc).__name__, remedy)

    def failed_because(self, detail: str, remedy: str) -> FileProblem:
        """Report why the file could not be used, and what to do."""
        problem = FileProblem(self._code, f"{self._prefix}{detail}", remedy)
        if self.problem is None or self.problem.detail != problem.detail:
            self._events.publish(StateFileNotWritten(file=self._path, detail=detail, remedy=remedy))
        self.problem = problem
        return problem

    def worked(self) -> None:
        """Report that the file could be used."""
        if self.problem is not None:
            self.problem = None
            self._events.publish(StateFileWritten(file=self._path))

    def take_set_aside(self, database: ExpendableDatabase) -> bool:
        """Report that a damaged file was set aside, if it was. Returns whether it was."""
        if database.set_aside is None:
            return False
        (copy, detail), database.set_aside = database.set_aside, None
        self._events.publish(StateFileSetAside(file=self._path, detail=detail, copy=str(copy)))
        return True
