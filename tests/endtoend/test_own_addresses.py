"""Hybrid connections under the names and ports that they have in the private network."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import trio

from hybridrelay._own_address import own_addresses

from ..deployments import Deployment, free_port
from ..waiting import async_wait_until
from .targets import echo, serve


async def echoes(host: str, port: int) -> bool:
    """Whether a connection there leads to the target."""
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(b"ping")
            return await stream.receive_some(4) == b"ping"
    except (OSError, trio.BrokenResourceError):
        return False


async def run(deployment: Deployment, *arguments: str | Path) -> None:
    done = await trio.to_thread.run_sync(partial(deployment.run, *arguments))
    assert done.returncode == 0, done.stderr


async def test_names_ports_and_a_reload(deployment: Deployment, nursery: trio.Nursery, tmp_path: Path) -> None:
    """Two on one host share its address. A port that is taken leaves the other one alone."""
    target = await serve(nursery, echo)
    one, two = deployment.create("one", target), deployment.create("two", target)
    ports = [free_port(), free_port(), free_port()]
    addresses = own_addresses(["sql01.corp.example", "other.corp.example"])

    async def rename(name: str, local_name: str) -> None:
        file = tmp_path / f"{name}.application"
        await run(deployment, "connections", "set-local-name", name, "--local-name", local_name, "--update", file)

    await rename("one", f"sql01.corp.example:{ports[0]}")
    await rename("two", f"sql01.corp.example:{ports[1]}")
    deployment.start_connector(one, two, arguments=["--mode", "tcp"])
    address = addresses["sql01.corp.example"]
    with socket.socket() as taken:
        # As a program that listens on all addresses.
        taken.bind(("0.0.0.0", ports[1]))
        taken.listen()
        forward = deployment.start(
            "forward", "--connection-string-file", one.application, two.application, "--listen", "own",
            "--mode", "tcp",
        )  # fmt: skip
        assert await echoes(address, ports[0])
        warned = await forward.logs(r"forward\.own-port-not-opened: .* used_port=(\d+)")
        assert await echoes(address, int(warned[1]))
        assert f"one={address}:{ports[0]}" in forward.out
        assert f"two={address}:{warned[1]}" in forward.out
        assert f"two:left-out={address}:{ports[1]}" in forward.out
    await rename("one", f"other.corp.example:{ports[2]}")
    served = partial(echoes, addresses["other.corp.example"], ports[2])
    await async_wait_until(served, seconds=60, what="the new name is served")
    assert not await echoes(address, ports[0])
    assert await echoes(address, int(warned[1]))
    assert not await echoes(addresses["other.corp.example"], ports[1]), "only what is published is open"
    await forward.logs("local name")
    nursery.cancel_scope.cancel()
