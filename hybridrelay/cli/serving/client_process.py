"""The client's process of ``hybridrelay run``: it starts the application, and serves its connections. Linux only.

`client/application/following.py` describes the three processes of ``run``: the *first* one, this one and that of
the application.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from ..._collector import short_collections
from ..._descriptors import raise_descriptor_limit
from ..._memory import keep_freed_memory
from ..._nursery import FlatNursery
from ...client import ClientConfig, OpenPort
from ...client.application.addresses import check_published, each_of
from ...client.application.checking import find_abilities, find_facts, first_port
from ...client.application.following import Messages
from ...client.application.interception import redirect_connections
from ...client.application.listeners import Listening, listen_for
from ...client.application.name_server import serve_names
from ...client.application.networks import Abilities, Network, NetworkSetup, choose_setups
from ...client.application.processes import NotPrepared, Prepared, begin_application
from ...client.application.refusals import explain
from ...client.application.watching import end_with_first, ignore_signals, outlive_first, watch_application
from ...client.ingress.ports import shown_addresses
from ...errors import ConfigurationError
from ...events.log import logged_events
from ...events.stream import EventStream
from ...security import ConnectionString, HostPorts, HostTarget, Role
from ..auditing import ProgramAudit, audited
from ..entries import Key
from ..logs import log_python_messages, logs_are_json, print_error
from ..option_parts import OptionParts, audit_part, log_level_part, status_part
from ..proxies import ChangingDialer, make_commands
from ..running import GracefulStop
from ..status_served import StatusServer
from ..update_marks import UpdateMarks
from .application import ApplicationService
from .client_config import client_config
from .configuration import Configuration
from .plan import Wanted
from .reloads import Reloads

if TYPE_CHECKING:
    from ...monitoring import StatusSource

__all__ = ["leave_standard_streams", "run_client_process"]

#: What to do if the application cannot be executed, by the cause.
_REMEDIES = {
    errno.ENOENT: "give the application after --: hybridrelay run ... -- APP ARGS",
    errno.EACCES: "give a file that this user may execute (chmod +x), or the interpreter of a script: "
    "hybridrelay run ... -- sh FILE",
}


def run_client_process(args: argparse.Namespace, messages: Messages, mask: set[signal.Signals]) -> None:
    """Start the application, and serve its connections until it has ended. All signals are blocked.

    Args:
        args: the options.
        messages: tells the first process what the application does.
        mask: the signals that are blocked for the application.

    Raises:
        HybridRelayError, OSError: the application was not started. No process is left.
    """
    first = os.getppid()
    configuration = Configuration(args, Role.APPLICATION)
    marks = UpdateMarks.of_user()
    wanted = configuration.load(marks)
    hosts = {one.entry.key: _hosts_of(one) for one in wanted}
    published = [host for one in hosts.values() for host in one]
    check_published(published)
    setup, listening, process = _begin_first(args, published, mask)
    # From here on, this process lives as long as the application, whatever happens to the terminal.
    os.setpgid(0, 0)
    leave_standard_streams()
    ignore_signals()
    sockets = process.listeners or listening.listeners
    ports = _ports_of(hosts, sockets, listening, setup)
    keep_freed_memory()
    raise_descriptor_limit()
    try:
        with log_python_messages(), short_collections():
            application = _Application(process, listening, ports, first, messages)
            trio.run(_serve, args, configuration, wanted, marks, application)
    finally:
        process.close()


def _hosts_of(wanted: Wanted) -> Sequence[HostTarget]:
    """Return the names with their ports under which the application knows a target."""
    assert wanted.string is not None
    if not wanted.string.protocols.has_streams:
        raise wanted.entry.error(
            ConfigurationError(
                f"{wanted.string.entity_path} is for datagrams only, which 'run' does not forward",
                remedy="leave it out, and forward it with 'hybridrelay forward'",
            )
        )
    if wanted.entry.published_names:
        return wanted.entry.published_names
    if wanted.string.local_name is None:
        raise wanted.entry.error(
            ConfigurationError(
                f"the connection string of {wanted.string.entity_path} has no local name",
                remedy="give the name and port that the application uses: --as HOST:PORT, or as = in the "
                "configuration file",
            )
        )
    return (wanted.string.local_name,)


def _choose(name: str | None, published: Sequence[HostTarget]) -> Sequence[NetworkSetup]:
    """Choose what can be set up. What the user has asked for is tried without checking it first."""
    if name is None:
        return choose_setups(None, published, find_abilities())
    return choose_setups(Network(name), published, Abilities(first_port=first_port()))


def _begin_first(
    args: argparse.Namespace, published: Sequence[HostTarget], mask: set[signal.Signals]
) -> tuple[NetworkSetup, Listening, Prepared]:
    """Set up the first of the chosen ways that succeeds. A chosen one may still fail, for example because a port is
    in use.

    Raises:
        ConfigurationError: why the first one has failed.
    """
    failure: ConfigurationError | None = None
    for setup in _choose(args.network, published):
        try:
            listening = listen_for(published, setup)
            try:
                return setup, listening, _begin(args, listening, setup, mask)
            except BaseException:
                listening.close()
                raise
        except ConfigurationError as exc:
            failure = failure or exc
    assert failure is not None
    raise failure


def _begin(
    args: argparse.Namespace, listening: Listening, setup: NetworkSetup, mask: set[signal.Signals]
) -> Prepared:
    try:
        return begin_application(args.application, listening.published, setup, mask=mask)
    except NotPrepared as exc:
        refusal = explain(exc.step, exc.number, exc.text, find_facts())
        raise ConfigurationError(
            f"this machine does not allow --network {setup.network.value} ({refusal})",
            remedy=f"{refusal.remedy}; 'hybridrelay run --check' explains every value of --network",
        ) from None


def _ports_of(
    hosts: Mapping[Key, Sequence[HostTarget]],
    sockets: Sequence[socket.socket],
    listening: Listening,
    setup: NetworkSetup,
) -> Mapping[Key, Sequence[OpenPort]]:
    """Return the listeners of each entry. For use before Trio runs."""
    every = iter(sockets)
    admits = None if listening.redirected is None else listening.redirected.admits
    is_private = setup.has_network or setup.intercepts
    found: dict[Key, list[OpenPort]] = {}
    for key, names in hosts.items():
        found[key] = ports = []
        for name in names:
            port = OpenPort([], _shown(name), is_private=is_private, admits=admits)
            port.says_port = isinstance(name, HostPorts)
            for one, sock in zip(each_of(name), every, strict=False):
                sock.setblocking(False)
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                port.listeners.append(listener)
                port.stands_for[listener] = one.port
            ports.append(port)
    return found


def _shown(name: HostTarget) -> tuple[str, ...]:
    return shown_addresses((one.host, one.port) for one in each_of(name))


def leave_standard_streams() -> None:
    """Close standard input and output, and what was inherited besides: they are the application's.

    Otherwise, the program at the other end of a pipe would not see that the application has closed it. The log still
    goes to standard error.
    """
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1):
        os.dup2(nowhere, number)
    os.close(nowhere)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2:
            with contextlib.suppress(OSError):  # the descriptor of the directory itself, which is closed by now
                if not fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                    os.close(number)


@attrs.frozen
class _Application:
    """What was set up for the application before Trio runs."""

    process: Prepared
    listening: Listening
    #: The listeners of each entry.
    ports: Mapping[Key, Sequence[OpenPort]]
    #: The id of the first process.
    first: int
    #: Tells the first process what the application does.
    messages: Messages


async def _serve(
    args: argparse.Namespace,
    configuration: Configuration,
    wanted: Sequence[Wanted],
    marks: UpdateMarks,
    application: _Application,
) -> None:
    process, messages = application.process, application.messages
    commands = make_commands(args)
    dialer = ChangingDialer(configuration.dial_options(), commands)
    events = logged_events()
    audit = ProgramAudit(args)

    def make_config(string: ConnectionString) -> ClientConfig:
        return client_config(
            string,
            args,
            configuration,
            marks,
            dialer=dialer.dialer,
            audit=audit.log,
            reloads=reloads,
            runs_application=True,
        )

    def last_look() -> AbstractAsyncContextManager[None]:
        return reloads.last_look()

    service = ApplicationService(make_config, events, application.ports, last_look=last_look)
    stop = GracefulStop(args.grace)

    def source() -> StatusSource:
        from ...monitoring import ClientsSource

        return ClientsSource(lambda: service.clients, role="forward", unapplied=reloads.unapplied)

    server = StatusServer(source, stop=stop.event, events=events)
    parts = OptionParts(args, [status_part(server), audit_part(audit), log_level_part()])
    reloads = Reloads("run", configuration, service, stop, dialer=dialer, parts=parts)

    async with FlatNursery() as watching:
        async with (
            audited(audit, "run", events),
            commands,
            server.serving(args.status),
            FlatNursery() as background,
        ):
            outlive_first(application.first)
            watching.start_soon(end_with_first, messages)
            background.start_soon(reloads.watch)
            _start_helpers(background, process, application.listening, events)
            async with FlatNursery() as serving:
                await serving.start(service.run, wanted)
                messages.started(process.pid, process.descriptor)
                status = await _run_application(
                    args.application, process, application.first, messages, commands.reaps
                )
                messages.ended(status)
                stop.event.set()
                service.stop(args.grace)
            background.cancel_scope.cancel()
        watching.cancel_scope.cancel()


def _start_helpers(nursery: trio.Nursery, process: Prepared, listening: Listening, events: EventStream) -> None:
    """Start the tasks that answer DNS queries and redirect connections."""
    names = listening.published.names
    if process.names is not None:
        nursery.start_soon(serve_names, process.names, names, None)
    if process.notifications is not None:
        assert listening.redirected is not None
        nursery.start_soon(partial(redirect_connections, process.notifications, listening.redirected, events=events))
        if listening.names is not None:
            nursery.start_soon(serve_names, listening.names, names, listening.redirected.wanted_server)


async def _run_application(
    argv: Sequence[str],
    process: Prepared,
    first: int,
    messages: Messages,
    belongs_to_client: Callable[[int], bool],
) -> int:
    """Let the application be executed, and wait until it has ended. Return its status, as `os.waitpid` does."""
    process.release()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report_failure, argv, process)
        # If the application cannot be executed, its process ends. The reason is reported before this nursery ends.
        return await watch_application(process.pid, first, messages, belongs_to_client=belongs_to_client)


async def _report_failure(argv: Sequence[str], process: Prepared) -> None:
    channel = process.channel()
    await trio.lowlevel.wait_readable(channel)
    failure = process.failure()
    if failure is not None:
        text = "there is no such program" if failure.errno == errno.ENOENT else failure.strerror
        print_error(f"cannot run {argv[0]}: {text}", _REMEDIES.get(failure.errno or 0), as_json=logs_are_json())
