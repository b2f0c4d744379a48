"""What a connector serves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from ..._file_thread import side_by_side, thread_of_file
from ...connector import Connector
from ...errors import ConfigurationError
from ...policy import PolicyFile
from ..entries import Entry, Key
from ..reloading import publish_not_reloaded
from .plan import Change, Plan, Replace, Running, Start, Step, Stop, Update, Wanted

__all__ = ["ConnectorService"]


class ConnectorService:
    """The hybrid connections of a connector. See `Service`.

    Args:
        connector: publishes `wanted` in this order, and so has numbered them from 0.
        wanted: the configuration with which it starts.
        grace: how long open streams of a hybrid connection that is no longer configured may continue (seconds).
    """

    def __init__(self, connector: Connector, wanted: Sequence[Wanted], *, grace: float) -> None:
        self._connector = connector
        self._grace = grace
        self._running: dict[Key, Running] = {}
        self._numbers: dict[Key, int] = {}
        for number, one in enumerate(wanted):
            assert one.string is not None
            self._running[one.entry.key] = Running(one.entry, one.string)
            self._numbers[one.entry.key] = number
            connector.use_proxy_protocol(number, on=one.entry.proxy_protocol)
            connector.connect_in_parallel(number, on=one.entry.connect_in_parallel)
            connector.use_deny_list(number, _deny_list_of(one.entry))

    @property
    def running(self) -> Mapping[Key, Running]:
        """See `Service.running`."""
        return self._running

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """See `Service.fields`."""
        return [(one.string.entity_path, str(one.string.target)) for one in self._running.values()]

    async def apply(self, plan: Plan) -> Sequence[Step]:
        """See `Service.apply`."""
        entries = [step.entry for step in plan.steps if isinstance(step, Start | Replace | Change)]
        read = await side_by_side([partial(thread_of_file(one.deny_list).run, _deny_list_of, one) for one in entries])
        deny_lists = {entry.key: deny_list for entry, deny_list in zip(entries, read, strict=True)}
        return [step for step in plan.steps if self._take(step, deny_lists)]

    def refresh(self, keys: Iterable[Key]) -> None:
        """See `Service.refresh`."""
        for key in keys:
            entry = self._running[key].entry
            try:
                self._connector.refresh(self._numbers[key])
            except ConfigurationError as exc:
                publish_not_reloaded(entry.error(ConfigurationError(f"{entry.file}: {exc}", remedy=exc.remedy)))

    def _take(self, step: Step, deny_lists: Mapping[Key, PolicyFile | None]) -> bool:
        """Take one step. Returns whether it succeeded; if not, the failure was reported."""
        entry: Entry | None = None
        try:
            match step:
                case Stop(key):
                    self._connector.withdraw(self._numbers.pop(key), grace=self._grace)
                    del self._running[key]
                case Start(entry, string):
                    self._numbers[entry.key] = self._connector.publish(string)
                    self._running[entry.key] = Running(entry, string)
                case Replace(entry, string):
                    number = self._connector.publish(string, instead_of=self._numbers[entry.key])
                    self._numbers[entry.key], self._running[entry.key] = number, Running(entry, string)
                case Update(key, update):
                    entry = self._running[key].entry
                    self._connector.update(self._numbers[key], update.string)
                    self._running[key] = Running(entry, update.string)
                case Change(entry):
                    self._running[entry.key] = Running(entry, self._running[entry.key].string)
            if entry is not None and entry.key in deny_lists:
                number = self._numbers[entry.key]
                self._connector.use_proxy_protocol(number, on=entry.proxy_protocol)
                self._connector.connect_in_parallel(number, on=entry.connect_in_parallel)
                self._connector.use_deny_list(number, deny_lists[entry.key])
        except ConfigurationError as exc:
            assert entry is not None
            error = ConfigurationError(f"{entry.file}: {exc}", remedy=exc.remedy)
            publish_not_reloaded(entry.error(error))
            return False
        return True


def _deny_list_of(entry: Entry) -> PolicyFile | None:
    """Read the deny list of an entry, if it has one.

    Raises:
        ConfigurationError: it cannot be read. The message says where it is named.
    """
    try:
        return None if entry.deny_list is None else PolicyFile(entry.deny_list)
    except ConfigurationError as exc:
        raise entry.error(exc) from None
