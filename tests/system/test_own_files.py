"""Programs that use the library store a new key in the files that they have read, unless they are told not to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from hybridrelay.client import ClientConfig, open_client
from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.events import Event, EventStream, NewKeyReceived
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import (
    ConnectionString,
    KeySlot,
    Role,
    load_connection_string,
    parse_connection_string_untrusted,
)

from .deployment import Deployment, echo, serve_target

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the relay runs on Linux")


def write(path: Path, string: ConnectionString) -> Path:
    path.write_text(string.format())
    path.chmod(0o600)
    return path


def test_a_connection_string_knows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If that is a regular file. It makes no difference when connection strings are compared or shown."""
    text = "Endpoint=hr://relay/;SharedAccessKeyName=a;SharedAccessKey=k;EntityPath=e"
    path = tmp_path / "application"
    path.write_text(text)
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    parsed = parse_connection_string_untrusted(text)
    for name, file in (("application", path), (path, path), ("link", link)):
        string = load_connection_string(name)
        assert string.file == file
        assert string == parsed
        assert str(tmp_path) not in repr(string)
        assert string.format() == text
    assert parsed.file is None
    assert load_connection_string(environ={"HYBRIDRELAY_CONNECTION_STRING": text}).file is None
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe:
        pipe.write(text)
        pipe.flush()
        pipe.close()
        assert load_connection_string(f"/dev/fd/{reading}").file is None


@pytest.mark.parametrize("stores", [True, False])
async def test_a_rolled_key_is_stored(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, stores: bool
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    connector = write(tmp_path / "connector", deployment.string(published, Role.CONNECTOR, target))
    application = write(tmp_path / "application", deployment.string(published, Role.APPLICATION))
    received: dict[str, NewKeyReceived] = {}
    has_received = {"connector": trio.Event(), "client": trio.Event()}

    def note(whose: str) -> Callable[[Event], None]:
        def publish(event: Event) -> None:
            if isinstance(event, NewKeyReceived):
                received[whose] = event
                has_received[whose].set()

        return publish

    strings = [load_connection_string(connector)]
    publishing = ConnectorConfig(strings) if stores else ConnectorConfig(strings, keep_string=None)
    string = load_connection_string(application)
    using = ClientConfig(string) if stores else ClientConfig(string, keep_string=None)

    async def connect(*, task_status: trio.TaskStatus[object]) -> None:
        await run_connector(publishing, events=EventStream(note("connector")), task_status=task_status)

    await nursery.start(connect)
    async with open_client(using, events=EventStream(note("client"))) as client, await client.open_stream() as stream:
        with SQLiteStore.open(deployment.state_dir) as store:
            keys = {
                rule: store.roll_key("db", rule, KeySlot.SECONDARY, seconds=600) for rule in ("listener", "sender")
            }
        with trio.fail_after(60):
            for event in has_received.values():
                await event.wait()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
    for path, rule, whose in ((connector, "listener", "connector"), (application, "sender", "client")):
        assert received[whose].kept is stores
        assert (load_connection_string(path).key == keys[rule]) is stores
        assert path.stat().st_mode & 0o777 == 0o600
    nursery.cancel_scope.cancel()
