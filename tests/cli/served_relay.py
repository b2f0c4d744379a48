"""A relay whose management API is served in a thread, for commands that run in this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from hybridrelay.events import Event, EventStream, ManagementCalled, ManagementListening
from hybridrelay.management import ManagementTcp, TcpOptions, serve_management
from hybridrelay.relay import RelayInfo, SQLiteStore
from hybridrelay.security import ManagementRole, generate_management_token, relay_pin

from ..certificates import CertificateAuthority
from ..management.live import FakeRelay

AUTHORITY = CertificateAuthority()


@attrs.frozen
class Access:
    """How a command reaches a relay."""

    #: ``store``, ``socket`` or ``https``.
    name: str
    state: Path
    #: Names the relay on a command line.
    options: tuple[str | Path, ...]
    #: The events of the management API; empty if none is served.
    events: list[Event] = attrs.field(factory=list)
    #: The pin of the certificate of the API, if it is served over TLS.
    pin: str = ""

    @property
    def audited(self) -> list[tuple[str, str, int]]:
        """Operation, caller and status of the calls in the audit log."""
        return [
            (event.operation_id, event.caller.split()[0], event.status)
            for event in self.events
            if isinstance(event, ManagementCalled)
        ]

    def token_file(self, role: ManagementRole, *, scope: str = "") -> Path:
        """Make a token, and write it to a file."""
        name = f"{role.name.lower()}-{len(list(self.state.parent.glob('*.token')))}"
        token, text = generate_management_token(name, role, scope=scope, now=time.time())
        with SQLiteStore.open(self.state, create=False) as store:
            store.add_token(token)
        path = self.state.parent / f"{name}.token"
        path.write_text(text.reveal() + "\n")
        path.chmod(0o600)
        return path


@contextmanager
def served(state: Path, *, over_tcp: bool, relay: FakeRelay | None = None) -> Iterator[Access]:
    """Serve the management API of a relay, on its socket and optionally over TLS."""
    events: list[Event] = []
    stream = EventStream(events.append)
    directory = state.parent
    tcp, pin = None, ""
    if over_tcp:
        AUTHORITY.write(directory / "ca.pem")
        certificate, key = AUTHORITY.issue("127.0.0.1")
        (directory / "certificate.pem").write_bytes(certificate + key)
        pin = relay_pin(directory / "certificate.pem")
        options = TcpOptions(addresses=[("127.0.0.1", 0)], certificate=directory / "certificate.pem")
        tcp = ManagementTcp(options, authenticators=(), events=stream)
    started: queue.SimpleQueue[trio.lowlevel.TrioToken | BaseException] = queue.SimpleQueue()
    stop = trio.Event()

    async def main() -> None:
        info = RelayInfo({}, relay_pin(state / "relay.pem"), {"http": 8080})
        serve = partial(
            serve_management, state, lambda: info, relay or FakeRelay(), stop=stop, tcp=tcp, events=stream
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            started.put(trio.lowlevel.current_trio_token())

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as exc:
            started.put(exc)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    token = started.get()
    if isinstance(token, BaseException):
        raise token
    try:
        access = Access("socket", state, ("--state", state), events, pin)
        if over_tcp:
            (listening,) = (event for event in events if isinstance(event, ManagementListening))
            url = f"https://{listening.address}"
            token_file = access.token_file(ManagementRole.ADMIN)
            ca = directory / "ca.pem"
            remote = ("--management", url, "--token-file", token_file, "--management-ca", ca)
            access = attrs.evolve(access, name="https", options=remote)
        yield access
    finally:
        token.run_sync_soon(stop.set)
        thread.join(30)
        assert not thread.is_alive()
