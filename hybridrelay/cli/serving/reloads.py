"""Applying a changed configuration while a connector, forward or run is running."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import trio

from ..._unexpected_failure import unexpected_failure
from ...connectivity.snapshot import UnappliedSnapshot
from ...errors import ConfigurationError
from ...events.plain_log import plainly_logged_events
from ...events.program import (
    ConfigurationReloaded,
    ConnectionStringReloaded,
    DialOptionsReloaded,
    OptionsReloaded,
    RestartNeeded,
)
from ...security import ConnectionString
from ..entries import Key
from ..option_parts import OptionParts
from ..proxies import ChangingDialer
from ..reloading import publish_not_reloaded
from ..running import GracefulStop
from .configuration import Configuration
from .front_options import FrontOptions
from .plan import Change, Plan, Renew, Replace, Running, Start, Step, Stop, Update, make_plan

__all__ = ["RETRY_SECONDS", "Reloads", "Service"]

#: If something could not be read or applied, when to try again although no file has changed (seconds): the cause may
#: be a deny list that does not exist yet, or descriptors that have run out.
RETRY_SECONDS = 5.0
#: The longest time until a renewed identity that could not be used is tried again (seconds). The first time is
#: `RETRY_SECONDS`, and each later one is twice as long. The earlier identity is still valid for a third of its life.
LONGEST_RETRY_SECONDS = 3600.0


class Service(Protocol):
    """A program that serves hybrid connections."""

    @property
    def running(self) -> Mapping[Key, Running]:
        """What is served now."""

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """What the ready line says: the names of the hybrid connections, each with its target or local addresses."""

    async def apply(self, plan: Plan) -> Sequence[Step]:
        """Apply a plan. It is cancelled only when the program ends. In the meantime, nothing ends by itself; see
        `Reloads.last_look`.

        Returns:
            The steps that succeeded. The others were reported.

        Raises:
            ConfigurationError: something cannot be served. Nothing was changed.
        """

    def refresh(self, keys: Iterable[Key]) -> None:
        """Apply unchanged connection strings again, so that what relays have refused is requested again at once."""


class Reloads:
    """Reads everything again when asked, and when a file has changed.

    Args:
        role: ``connector``, ``forward`` or ``run``.
        configuration: reads the files.
        service: serves the hybrid connections, and applies the changes.
        stop: the program's stop, after which nothing changes.
        dialer: reaches the relays.
        parts: the other options that can be changed; None: there are none.
        apply_with_fronts: as `Service.apply`, for a forward: applies the plan, and uses these fronts. If it raises
            `ConfigurationError`, nothing was changed.
    """

    def __init__(
        self,
        role: str,
        configuration: Configuration,
        service: Service,
        stop: GracefulStop,
        *,
        dialer: ChangingDialer,
        parts: OptionParts | None = None,
        apply_with_fronts: Callable[[Plan, FrontOptions], Awaitable[Sequence[Step]]] | None = None,
    ) -> None:
        self._role = role
        self._configuration = configuration
        self._service = service
        self._stop = stop
        self._dialer = dialer
        self._parts = OptionParts(argparse.Namespace(), ()) if parts is None else parts
        self._apply_with_fronts = apply_with_fronts
        self._lock = trio.Lock()
        #: How many last looks have begun.
        self._looks = 0
        #: Connection strings with earlier and with renewed identities, which are not in use yet.
        self._renewed: list[tuple[ConnectionString, ConnectionString]] = []
        self._is_renewed = trio.Event()
        #: Why the last attempt has failed; None if it has not.
        self._error: ConfigurationError | None = None
        #: The options that were read last, and why some of them cannot be used.
        self._options: argparse.Namespace | None = None
        self._failures: tuple[ConfigurationError, ...] = ()
        self._needs_restart: tuple[str, ...] = ()
        #: Whether to try again.
        self._is_incomplete = False

    async def reload(self, *, says_all: bool = True) -> None:
        """Read everything again, and apply what has changed.

        Args:
            says_all: whether to report also what has not changed, because somebody has asked for the reload.
        """
        async with self._lock:
            await self._reload(says_all=says_all)

    @asynccontextmanager
    async def last_look(self) -> AsyncIterator[None]:
        """Read everything again, and apply what has changed about the entries that are served; see `LastLook`.

        Something that has failed does this before it ends: a connection string that was changed at the same time as
        relays have refused the earlier one may not have been read yet. A change that is being applied is completed
        first, and no other begins while the block runs.
        """
        before = self._looks
        async with self._lock:
            # One that has begun in the meantime has seen everything.
            if self._looks == before and not self._stop.event.is_set():
                self._looks += 1
                await self._unless_it_fails(partial(self._reload, says_all=False, is_last_look=True))
            yield

    async def _reload(self, *, says_all: bool, is_last_look: bool = False) -> None:
        before = dict(self._service.running)
        try:
            reading = await self._configuration.read_again(before, says_all=says_all)
            plan = make_plan(before, reading.wanted)
            if is_last_look:
                plan = plan.for_running(before)
            if self._stop.event.is_set():
                return
            if self._apply_with_fronts is not None and reading.fronts is not None:
                done = await self._apply_with_fronts(plan, reading.fronts)
            else:
                done = await self._service.apply(plan)
        except ConfigurationError as exc:
            if says_all or self._error is None or str(exc) != str(self._error):
                publish_not_reloaded(exc)
            self._error, self._is_incomplete = exc, True
            return
        self._error = None
        self._is_incomplete = not reading.is_complete
        read = {one.entry.key for one in reading.wanted if one.string is not None}
        unchanged = [key for key in plan.unchanged if key in read]
        changed = self._dialer.use(reading.dial)
        if changed:
            plainly_logged_events().publish(DialOptionsReloaded(changed=changed))
        if says_all:
            self._service.refresh(plan.unchanged)
        self._report(before, done, plan, unchanged if says_all else [])
        if done:
            self._stop.say_changed(self._role, self._service.fields)
        await self._change_options(reading.args, says_all=says_all)

    async def _change_options(self, args: argparse.Namespace, *, says_all: bool) -> None:
        """Use the changed options, and say what has changed, what cannot be used, and what needs a restart. Unless
        `says_all`, the latter two are not repeated while the options stay the same."""
        events, file = plainly_logged_events(), str(self._configuration.file)
        is_new = says_all or args != self._options
        changes = await self._parts.change(args)
        known = {str(failure) for failure in self._failures}
        for failure in changes.failures:
            if is_new or str(failure) not in known:
                publish_not_reloaded(failure)
        self._options, self._failures = args, changes.failures
        if changes.changed:
            events.publish(OptionsReloaded(file=file, changed=changes.changed))
        needs_restart = self._configuration.needs_restart(args, self._parts)
        self._needs_restart = needs_restart
        if needs_restart and is_new:
            events.publish(RestartNeeded(file=file, changed=needs_restart))

    def unapplied(self) -> Iterator[UnappliedSnapshot]:
        """Yield what is in the files and not in use, for the status."""
        errors = (*(() if self._error is None else (self._error,)), *self._configuration.unreadable, *self._failures)
        for error in errors:
            yield UnappliedSnapshot(
                code="reload-failed",
                detail=f"a changed file cannot be used, and what was in use before stays in use: {error}",
                remedy=error.remedy or "correct the file: the program reads changed files by itself",
            )
        if self._needs_restart:
            yield UnappliedSnapshot(
                code="restart-needed",
                detail=f"changes of these keys in {self._configuration.file} take effect only after a restart: "
                f"{', '.join(self._needs_restart)}",
                remedy="restart the program, or undo these changes",
            )

    async def watch(self) -> None:
        """Reload whenever a file has changed, until cancelled. What could not be read or applied is tried again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._configuration.watch.run, self._reload_unless_it_fails)
            nursery.start_soon(self._use_all_renewed)
            while True:
                await trio.sleep(RETRY_SECONDS)
                if self._is_incomplete:
                    await self._reload_unless_it_fails()

    def use_renewed(self, before: ConnectionString, after: ConnectionString) -> None:
        """Use a connection string with a renewed identity in place of an earlier one, in the background. Open
        connections continue with the earlier identity. If this fails, it is reported, and tried again until it
        succeeds."""
        self._renewed.append((before, after))
        self._is_renewed.set()

    async def _use_all_renewed(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._is_renewed.wait()
                self._is_renewed = trio.Event()
                while self._renewed:
                    nursery.start_soon(self._use_until_it_succeeds, *self._renewed.pop(0))

    async def _use_until_it_succeeds(self, before: ConnectionString, after: ConnectionString) -> None:
        wait = RETRY_SECONDS
        while not await self._use_one_renewed(before, after):
            await trio.sleep(wait)
            wait = min(2 * wait, LONGEST_RETRY_SECONDS)

    async def _use_one_renewed(self, before: ConnectionString, after: ConnectionString) -> bool:
        """Use a renewed identity everywhere where the earlier one is in use. Returns whether that has succeeded; if
        not, the failure was reported."""
        assert after.identity is not None
        is_done = True
        async with self._lock:
            for key, running in list(self._service.running.items()):
                string = running.string
                # Its key or its relays may have changed in the meantime.
                is_earlier = (string.entity_path, string.identity) == (before.entity_path, before.identity)
                if is_earlier and not self._stop.event.is_set():
                    is_done = await self._renew(Renew(key, after.identity)) and is_done
        return is_done

    async def _renew(self, step: Renew) -> bool:
        """Take this step. Returns whether it succeeded; if not, the failure was reported. A bug is one, too."""
        try:
            return bool(await self._service.apply(Plan((step,), ())))
        except ConfigurationError as exc:
            publish_not_reloaded(exc)
        except Exception as exc:  # noqa: BLE001
            plainly_logged_events().publish(unexpected_failure("the use of a renewed identity", exc))
        return False

    async def _reload_unless_it_fails(self) -> None:
        await self._unless_it_fails(partial(self.reload, says_all=False))

    async def _unless_it_fails(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Reload. A bug is reported, and must not end the program."""
        try:
            await reload()
        except Exception as exc:  # noqa: BLE001
            plainly_logged_events().publish(unexpected_failure("the reload", exc))

    def _report(
        self, before: Mapping[Key, Running], done: Sequence[Step], plan: Plan, unchanged: Sequence[Key]
    ) -> None:
        events = plainly_logged_events()
        started, stopped, changed = [], [], []
        for step in done:
            match step:
                case Start(_, string):
                    started.append(string.entity_path)
                case Stop(key):
                    stopped.append(before[key].string.entity_path)
                case Replace(entry, string):
                    changed.append(string.entity_path)
                    events.publish(ConnectionStringReloaded(file=str(entry.file), changed=("identity",)))
                case Update(key, update):
                    changed.append(before[key].string.entity_path)
                    events.publish(ConnectionStringReloaded(file=key[0], changed=update.taken_up))
                case Change(entry):
                    changed.append(before[entry.key].string.entity_path)
        for key in unchanged:
            events.publish(ConnectionStringReloaded(file=key[0]))
        if self._configuration.file is not None and (done or unchanged):
            events.publish(
                ConfigurationReloaded(
                    file=str(self._configuration.file),
                    started=tuple(started),
                    stopped=tuple(stopped),
                    changed=tuple(dict.fromkeys(changed)),
                    unchanged=len(plan.unchanged),
                )
            )
