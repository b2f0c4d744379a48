"""With an issuer, no private key leaves the machine that made it: everything that the relay handles is recorded.

Three things are searched for every private key in every form: all bytes that pass the relay's ports, everything that
the relay itself encrypts and decrypts, and all files that it writes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from hybridrelay.security import (
    AuthorityFile,
    ClaimKeys,
    ConnectionString,
    PendingClaim,
    Role,
    Secret,
    load_connection_string,
    new_private_key,
    parse_claim_code_untrusted,
)

from ..deployments import Deployment, Published
from ..waiting import patience
from .targets import echo, exchange, serve

#: Runs the command line of the relay, and appends all plaintext of its TLS connections to a file.
OBSERVED_RELAY = """
import os, ssl, sys
tape = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
class Observed(ssl.SSLObject):
    def read(self, count=1024, buffer=None):
        if buffer is None:
            data = super().read(count)
            os.write(tape, data)
            return data
        size = super().read(count, buffer)
        os.write(tape, bytes(memoryview(buffer)[:size]))
        return size
    def write(self, data):
        os.write(tape, bytes(data))
        return super().write(data)
ssl.SSLContext.sslobject_class = Observed
from hybridrelay.__main__ import main
sys.argv[0] = "hybridrelay"
sys.exit(main())
"""


class Recorder:
    """Stands in front of each port of a relay, and keeps all bytes in both directions."""

    def __init__(self) -> None:
        self.tape = bytearray()
        self.ports: dict[str, int] = {}

    async def listen(self, nursery: trio.Nursery, names: dict[str, int]) -> None:
        """Listen in front of these ports."""
        for name, port in names.items():
            listeners = await nursery.start(
                partial(trio.serve_tcp, partial(self._pass_on, port), 0, host="127.0.0.1")
            )
            self.ports[name] = listeners[0].socket.getsockname()[1]

    async def _pass_on(self, port: int, incoming: trio.SocketStream) -> None:
        async with incoming:
            try:
                outgoing = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                return
            async with outgoing, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, incoming, outgoing)
                nursery.start_soon(self._copy, outgoing, incoming)

    async def _copy(self, one: trio.SocketStream, other: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in one:
                self.tape += data
                await other.send_all(data)
            await other.send_eof()
            return
        await trio.aclose_forcefully(one)
        await trio.aclose_forcefully(other)


def forms(key: Secret) -> Iterator[bytes]:
    """What a private key might look like: whole or in pieces, raw or as text."""
    loaded = load_der_private_key(base64.b64decode(key.reveal()), None)
    seed = loaded.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    der = loaded.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert seed in der
    yield pem.splitlines()[1]
    yield key.reveal().encode()
    for one in (seed, seed[::-1]):
        yield from (one[start : start + 12] for start in range(len(one) - 11))
        for text in (one.hex(), one.hex().upper(), one.hex(":"), one.hex(" ")):
            yield text.encode()
            yield text.encode("utf-16-le")
        # Base64 and Base32 by their alignments, without the characters that depend on the neighbours.
        for offset in range(3):
            yield base64.b64encode(one[offset:])[4:24]
            yield base64.urlsafe_b64encode(one[offset:])[4:24]
        for offset in range(5):
            yield base64.b32encode(one[offset:])[8:32]
            yield base64.b32encode(one[offset:])[8:32].lower()
            yield base64.b85encode(one[offset:])[5:25]
            yield base64.a85encode(one[offset:])[5:25]


def test_every_form_is_found() -> None:
    key = new_private_key()
    loaded = load_der_private_key(base64.b64decode(key.reveal()), None)
    seed = loaded.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    pem = loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = [
        seed, seed[3:25], seed[::-1], pem, b"x" + base64.b64encode(b"ab" + seed), seed.hex().encode(),
        json.dumps({"key": key.reveal()}).encode(), base64.b32encode(b"abc" + seed).lower(),
    ]  # fmt: skip
    for one in shown:
        assert any(form in b"before" + one + b"after" for form in forms(key))
    assert not any(form in os.urandom(100_000) for form in forms(key))


@contextlib.asynccontextmanager
async def observed(tmp_path: Path) -> AsyncIterator[tuple[Deployment, Recorder, Path]]:
    """A relay of which everything is recorded."""
    tape = tmp_path / "tape"
    with Deployment(tmp_path) as deployment:
        wrapper = (sys.executable, "-c", OBSERVED_RELAY, str(tape))
        await trio.to_thread.run_sync(partial(start_observed_relay, deployment, wrapper))
        recorder = Recorder()
        async with trio.open_nursery() as nursery:
            await recorder.listen(nursery, deployment.ports)
            yield deployment, recorder, tape
            nursery.cancel_scope.cancel()


def start_observed_relay(deployment: Deployment, wrapper: tuple[str, ...]) -> None:
    plain = deployment.command
    deployment.command = lambda *arguments: [*wrapper, *map(str, arguments)]  # type: ignore[method-assign]
    try:
        deployment.start_relay()
    finally:
        deployment.command = plain  # type: ignore[method-assign]


def create(deployment: Deployment, recorder: Recorder, target: tuple[str, int]) -> Published:
    files = {role: deployment.directory / f"orders.{role}" for role in ("connector", "application", "authority")}
    ports = ",".join(f"{name}={port}" for name, port in recorder.ports.items())
    done = deployment.run(
        "connections", "create", "orders", "--target", f"{target[0]}:{target[1]}", "--endpoint", "127.0.0.1",
        "--state", deployment.state, "--public-ports", ports, "--issuer",
        *(part for role, file in files.items() for part in (f"--{role}-file", file)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Published("orders", **files)


def take(deployment: Deployment, out: Path, code: str | None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        deployment.command("claims", "take", "--out", out, "--mode", "tcp"),
        check=False, input="" if code is None else f"{code}\n", capture_output=True, text=True,
        timeout=patience(90), env={**os.environ, **more},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="the relay runs on Linux")
async def test_no_private_key_passes_the_relay(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    async with observed(tmp_path) as (deployment, recorder, tape):
        published = await trio.to_thread.run_sync(create, deployment, recorder, target)
        done = await trio.to_thread.run_sync(
            deployment.run,
            "claims", "create", "orders", "--role", "application", "--label", "billing",
            "--authority-file", str(published.authority), "--state", str(deployment.state), "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        created = json.loads(done.stdout)
        assert created["has_private_key"] is False
        code = created["code"]
        out = tmp_path / "billing.application"

        # No connector runs: the claim is not lost.
        first = await trio.to_thread.run_sync(partial(take, deployment, out, code))
        assert (first.returncode, out.exists()) == (1, False), first.stderr
        pending = out.with_name(f"{out.name}.claim")
        assert f"is kept in {pending}" in first.stderr
        assert "start the connector of the hybrid connection" in first.stderr
        assert stat.S_IMODE(pending.stat().st_mode) == 0o600
        waiting = PendingClaim.parse_untrusted(pending.read_text())

        used = tmp_path / "used-claims.json"
        start = partial(
            deployment.start_connector, published, arguments=("--used-claims", str(used), "--mode", "tcp")
        )
        connector = await trio.to_thread.run_sync(start)
        second = await trio.to_thread.run_sync(partial(take, deployment, out, None))
        assert (second.returncode, second.stderr) == (0, "")
        assert "of the application billing of orders" in second.stdout
        assert (out.exists(), pending.exists()) == (True, False)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        issued = (await connector.logs(r"identity\.issued.*")).group(0)
        string = load_connection_string(out)
        identity, _ = string.require_identity()
        assert (identity.role, identity.label) == (Role.APPLICATION, "billing")
        assert identity.private_key == waiting.private_key
        assert identity.serial in issued
        assert waiting.details.serial in used.read_text()

        forward = await trio.to_thread.run_sync(deployment.start_forward, out)
        data = os.urandom(100_000)
        assert await exchange(forward.port, data) == data

        # Somebody else with the code gets nothing but the alarm.
        stolen = await trio.to_thread.run_sync(partial(take, deployment, tmp_path / "stolen", code))
        assert (stolen.returncode, "was taken before at" in stolen.stderr) == (1, True)
        deployment.programs[0].wait_for_line("claim.taken-again", where="err")

        for program in deployment.programs:
            await trio.to_thread.run_sync(program.close)
        handled = {"the wire": bytes(recorder.tape), "what the relay decrypts": tape.read_bytes()}
        for file in deployment.state.rglob("*"):
            if file.is_file():
                handled[str(file)] = file.read_bytes()
        for program in deployment.programs:
            handled[f"the log of {program.name}"] = (program.out + program.err).encode()

    # The recorders were there: the relay has seen tokens, the claim's id, and the bytes of the application.
    keys = ClaimKeys.of(parse_claim_code_untrusted(code))
    assert keys.id.encode() in handled["what the relay decrypts"]
    assert b"SharedAccessSignature" in handled["what the relay decrypts"]
    assert len(handled["the wire"]) > 2 * len(data)
    authority = AuthorityFile.parse_untrusted(published.authority.read_text())
    connector_string = load_connection_string(published.connector)
    assert connector_string.issuer is not None
    secrets = {
        "the application": identity.private_key,
        "the claim": keys.private_key(),
        "the issuer": connector_string.issuer.private_key,
        "the connector": private_key(connector_string),
        "the first application": private_key(load_connection_string(published.application)),
        "the authority": authority.authority.private_key,
    }
    assert len(set(secrets.values())) == len(secrets)
    for whose, key in secrets.items():
        for form in forms(key):
            for where, content in handled.items():
                if form in content:
                    pytest.fail(f"a part of the private key of {whose} is in {where}")
    secret = code.split(".")[-2].replace("-", "").encode()
    for where, content in handled.items():
        assert secret not in content.replace(b"-", b"").lower(), where


def private_key(string: ConnectionString) -> Secret:
    identity, _ = string.require_identity()
    return identity.private_key
