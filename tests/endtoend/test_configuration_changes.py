"""Connector and forward apply a changed configuration while applications talk."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.streams.unix_sockets import connect_unix_socket

from ..deployments import Deployment, Program, Published, free_port
from ..waiting import async_wait_until
from .talking import Talker, all_move, all_talking
from .targets import echo, is_served, serve

SECONDS = 60
STREAMS = 10


@attrs.define
class Scene:
    """Hybrid connections a, b and c, of which a and b are served."""

    deployment: Deployment
    published: dict[str, Published]
    ports: dict[str, int]
    connector: Program
    forward: Program
    target: tuple[str, int]

    def connector_file(self, names: Iterable[str]) -> str:
        return "grace = 20\n" + "".join(f'[[connection]]\nfile = "{name}.connector"\n' for name in names)

    def forward_file(self, names: Iterable[str]) -> str:
        return 'mode = "tcp"\ngrace = 20\n' + "".join(
            f'[[connection]]\nfile = "{name}.application"\nlisten = "127.0.0.1:{self.ports[name]}"\n'
            for name in names
        )

    def configure(self, *names: str) -> None:
        """Configure both programs."""
        replace(self.deployment.directory / "connector.toml", self.connector_file(names))
        replace(self.deployment.directory / "forward.toml", self.forward_file(names))

    async def run(self, *arguments: str | Path) -> None:
        done = await trio.to_thread.run_sync(partial(self.deployment.run, *arguments))
        assert done.returncode == 0, done.stderr

    async def served(self, name: str) -> None:
        await async_wait_until(partial(is_served, self.ports[name]), seconds=SECONDS, what=f"{name} is served")

    async def not_listening(self, name: str) -> None:
        async def refused() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", self.ports[name])) != 0

        await async_wait_until(refused, seconds=SECONDS, what=f"the port of {name} is closed")


def replace(path: Path, text: str) -> None:
    """Replace the file, as an editor does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


async def says(program: Program, pattern: str, act: Callable[[], object]) -> str:
    """The first line of the log with this, after something was done."""
    heard = len(program.lines["err"])
    act()

    def lines() -> list[str]:
        return [line for line in program.lines["err"][heard:] if re.search(pattern, line)]

    async def said() -> bool:
        return bool(lines())

    await async_wait_until(said, seconds=SECONDS, what=f"{pattern}\n{program.err}")
    return lines()[0]


@asynccontextmanager
async def talking(port: int) -> AsyncIterator[list[Talker]]:
    """Applications that talk over open connections during the block. Every byte has to arrive unchanged."""
    talkers = [Talker(port) for _ in range(STREAMS)]
    async with all_talking(talkers):
        yield talkers


@pytest.fixture
async def scene(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    target = await serve(nursery, echo)
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
        published = {name: deployment.create(name, target) for name in ("a", "b", "c")}
        ports = {name: free_port() for name in published}
        scene = Scene.__new__(Scene)
        scene.deployment, scene.published, scene.ports, scene.target = deployment, published, ports, target
        scene.configure("a", "b")
        scene.connector = deployment.start("connector", "--config", tmp_path / "connector.toml")
        scene.forward = deployment.start("forward", "--config", tmp_path / "forward.toml")
        yield scene
        nursery.cancel_scope.cancel()


async def test_one_more_and_one_less(scene: Scene) -> None:
    """What is unchanged is not touched, and what is gone drains."""
    async with talking(scene.ports["a"]):
        scene.configure("a", "b", "c")
        await scene.served("c")
        async with talking(scene.ports["b"]) as ending:
            scene.configure("c", "a")
            await scene.not_listening("b")
            await all_move(ending)
        await scene.connector.logs("configuration.reloaded: .* stopped=b")
        await scene.forward.logs("configuration.reloaded: .* stopped=b .*unchanged=2")
        await scene.served("c")
        scene.configure("a", "b", "c")
        await scene.served("b")
    for program in (scene.connector, scene.forward):
        assert "was lost" not in program.err
        assert program.process.poll() is None
        assert await trio.to_thread.run_sync(program.terminate) == 0


async def test_files_that_cannot_be_used_change_nothing(scene: Scene) -> None:
    directory = scene.deployment.directory
    good = {name: (directory / f"{name}.toml").read_text() for name in ("connector", "forward")}
    connectors = scene.connector_file("ab")
    forwards = scene.forward_file("ab")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        in_use = taken.getsockname()[1]
        bad = [
            ("connector", "", "connector.toml names no connection string"),
            ("connector", connectors.replace("a.connector", "-"), "line 2: standard input can be read only when"),
            ("forward", "", "forward.toml names no connection string"),
            ("connector", connectors[:-2], "is not TOML: .*line 5"),
            (
                "connector",
                connectors.replace("file", "flie"),
                "connector.toml: line 3: unknown key 'flie'.*did you mean file",
            ),
            ("connector", scene.connector_file(["a", "b", "d"]), "connector.toml: line 6: cannot read .*d.connector"),
            (
                "connector",
                connectors + "[[connection]]\n",
                "connector.toml: line 6: a connection needs either file or",
            ),
            (
                "connector",
                scene.connector_file(["a", "c"]).replace("c.connector", "a.application"),
                "connector.toml: line 4: .*a.application: .*an application's",
            ),
            (
                "connector",
                connectors + '[[connection]]\nfile = "../' + directory.name + '/a.connector"\n',
                "connector.toml: line 6: two connection strings are for a",
            ),
            (
                "forward",
                forwards + scene.forward_file("c")[24:].replace(str(scene.ports["c"]), str(in_use)),
                "line 9: cannot listen on",
            ),
            (
                "forward",
                forwards.replace(str(scene.ports["b"]), str(scene.ports["a"])),
                "line 6: .* is already a local address",
            ),
            ("forward", forwards.replace('listen = "', 'listen = "x x'), "forward.toml: line 5: listen: "),
        ]
        async with talking(scene.ports["a"]) as talkers:
            for name, text, pattern in bad:
                program = scene.connector if name == "connector" else scene.forward
                await says(program, f"reload.failed: .*{pattern}", partial(replace, directory / f"{name}.toml", text))
                await all_move(talkers)
                await scene.served("b")
            for name, text in good.items():
                program = scene.connector if name == "connector" else scene.forward
                replace(directory / f"{name}.toml", text)
                hang_up = partial(program.process.send_signal, signal.SIGHUP)
                line = await says(program, "configuration.reloaded", hang_up)
                assert "unchanged=2" in line
                assert "started" not in line
                assert "stopped" not in line


async def test_a_connection_string_may_arrive_after_the_file_that_names_it(scene: Scene) -> None:
    """A new one is used on both sides, and nothing else has to be done."""
    directory = scene.deployment.directory
    for name in ("c.connector", "c.application"):
        (directory / name).rename(directory / f"{name}.later")
    scene.configure("a", "b", "c")
    for program in (scene.connector, scene.forward):
        await program.logs("reload.failed: .*cannot read .*c[.]")
    for name in ("c.connector", "c.application"):
        (directory / f"{name}.later").rename(directory / name)
    await scene.served("c")


async def test_changed_strings_are_taken_without_a_signal(scene: Scene) -> None:
    """Another key, another target, another identity, on both sides."""
    deployment, a = scene.deployment, scene.published["a"]
    async with talking(scene.ports["a"]) as talkers:
        for role, program in (("connector", scene.connector), ("application", scene.forward)):
            use = ("keys", "use", "a", "--rule", role, "--key", "secondary", "--state", deployment.state)
            await scene.run(*use, "--update", getattr(a, role))
            await program.logs("Only this key is in use now: connection=a")
        await all_move(talkers)
        for role, program in (("connector", scene.connector), ("application", scene.forward)):
            issued = deployment.directory / "issued"
            issue = ("connections", "issue", "a", "--role", role, "--label", "again", "--authority-file", a.authority)
            await scene.run(*issue, "--state", deployment.state, "--out", issued)
            await says(program, "reloaded: .*changed=identity", partial(os.replace, issued, getattr(a, role)))
            await all_move(talkers)
            await scene.served("a")

        async def serves_again() -> bool:
            return "label=again" in scene.connector.err

        await async_wait_until(serves_again, seconds=SECONDS, what="the new identity is used")
    assert "was lost" not in scene.connector.err + scene.forward.err


async def test_a_replaced_link_of_kubernetes_is_noticed(scene: Scene) -> None:
    """A volume of a Secret: files are links through ``..data``, which is replaced."""
    volume = scene.deployment.directory / "volume"
    text = scene.published["c"].connector.read_text()
    for number in (1, 2):
        (volume / f"..{number}").mkdir(parents=True)
        (volume / f"..{number}" / "c").write_text(text.replace(f":{scene.target[1]}", ":9") if number == 1 else text)
    (volume / "..data").symlink_to("..1")
    (volume / "c").symlink_to("..data/c")
    scene.configure("a", "b", "c")
    config = scene.connector_file(["a", "b"]) + '[[connection]]\nfile = "volume/c"\n'
    replace(scene.deployment.directory / "connector.toml", config)
    await scene.connector.logs("registered at a relay: connection=c")
    (volume / "..new").symlink_to("..2")
    await says(scene.connector, "volume/c changed=target", partial(os.replace, volume / "..new", volume / "..data"))
    await scene.served("c")


async def test_ports_change_hands(scene: Scene) -> None:
    """The two exchange their ports, while connections are open at both."""
    async with talking(scene.ports["a"]) as first, talking(scene.ports["b"]) as second:
        text = scene.forward_file("ab")
        swapped = text.replace("a.app", "x.app").replace("b.app", "a.app").replace("x.app", "b.app")
        path = scene.deployment.directory / "forward.toml"
        line = await says(scene.forward, "configuration.reloaded", partial(replace, path, swapped))
        assert re.search("changed=.*a.*b|changed=.*b.*a", line)
        await all_move([*first, *second])
        await scene.served("a")
        await scene.served("b")
    assert "cannot listen" not in scene.forward.err


async def test_the_same_port_in_another_form(scene: Scene) -> None:
    """Open connections continue. If another address of the configuration cannot be opened, it is open as before."""
    path, port = scene.deployment.directory / "forward.toml", scene.ports["a"]
    first, file = path.read_text(), scene.deployment.directory / "a.sock"
    before = f'"127.0.0.1:{port}"'

    async def change(listen: str, pattern: str = "configuration.reloaded: .*changed=a") -> str:
        return await says(scene.forward, pattern, partial(replace, path, first.replace(before, listen)))

    async with talking(port) as talkers:
        for listen in (f'"127.0.0.1:{port}/tcp+udp"', f'"0.0.0.0:{port}"', before):
            await change(listen)
            await all_move(talkers)
            await scene.served("a")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            other = taken.getsockname()[1]
            line = await change(f'["0.0.0.0:{port}", "127.0.0.1:{other}"]', "reload.failed: ")
            assert f"cannot listen on 127.0.0.1:{other}" in line
        await scene.served("a")
        await all_move(talkers)
    await change(f'"127.0.0.1:{port}/udp"')
    await scene.not_listening("a")
    await change(f'[{before}, "unix:{file}"]')
    for mode in ("660", "600"):
        await change(f'[{before}, "unix:{file},mode={mode}"]')
        assert f"{file.stat().st_mode & 0o777:o}" == mode
        async with await connect_unix_socket(file) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
    await scene.served("a")


async def test_what_needs_a_restart_is_said(scene: Scene) -> None:
    path = scene.deployment.directory / "connector.toml"
    text = path.read_text().replace("grace = 20", "grace = 7\nmode = 'websocket'")
    line = await says(scene.connector, "restart.needed", partial(replace, path, text))
    assert "connector.toml" in line
    assert "grace" in line
    assert "mode" in line


async def test_a_unix_socket_is_added_to_a_port(scene: Scene) -> None:
    """It is added to a port, without a restart. 20 MB arrive unchanged in both directions."""
    path, socket_path = scene.deployment.directory / "forward.toml", scene.deployment.directory / "a.sock"
    async with talking(scene.ports["a"]):
        port = f'"127.0.0.1:{scene.ports["a"]}"'
        text = path.read_text().replace(port, f'[{port}, "unix:{socket_path},mode=660"]')
        await says(scene.forward, "configuration.reloaded: .*changed=a", partial(replace, path, text))
        data = os.urandom(20_000_000)
        stream = await connect_unix_socket(socket_path)
        async with stream, trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(data)
                stream.socket.shutdown(socket.SHUT_WR)

            nursery.start_soon(send)
            received = bytearray()
            async for block in stream:
                received += block
            assert received == data
        replace(path, path.read_text().replace(f', "unix:{socket_path},mode=660"', ""))

        async def is_gone() -> bool:
            return not socket_path.exists()

        await async_wait_until(is_gone, seconds=SECONDS, what="the file is removed")
        await scene.served("a")


async def test_a_deny_list_for_one_hybrid_connection(scene: Scene) -> None:
    """Named, changed and removed without a restart; the other hybrid connection is not affected."""
    directory = scene.deployment.directory
    denied, config = directory / "denied", directory / "connector.toml"
    denied.write_text("nobody\n")
    text = config.read_text()
    with_list = text.replace('file = "b.connector"\n', 'file = "b.connector"\ndeny-list = "denied"\n')
    missing = with_list.replace('"denied"', '"missing"')
    await says(scene.connector, "reload.failed: .*line 4: .*missing", partial(replace, config, missing))
    async with talking(scene.ports["a"]):
        async with talking(scene.ports["b"]):
            await says(scene.connector, "configuration.reloaded: .*changed=b", partial(replace, config, with_list))
        stream = await trio.open_tcp_stream("127.0.0.1", scene.ports["b"])
        async with stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            await says(scene.connector, "session.ended: .*connection=b", lambda: denied.write_text("application\n"))
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(SECONDS):
                await stream.receive_some()
        assert not await is_served(scene.ports["b"])
        replace(config, text)
        await scene.served("b")
        await scene.served("a")
    assert await trio.to_thread.run_sync(scene.connector.terminate) == 0
