"""Commands run in this process, where nothing long-running is needed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import attrs
import pytest

from hybridrelay.cli import main
from hybridrelay.cli.logs import StderrHandler
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import ENVIRONMENT_VARIABLE, KeySlot, Rule, Secret

from ..deployments import Deployment
from ..keys import key_of


@attrs.frozen
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


class Run(Protocol):
    """Runs a command: ``run("connections", "list", "--state", path)``."""

    def __call__(self, *arguments: str | Path) -> Result: ...


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Programs in a directory. Nothing runs yet."""
    with Deployment(tmp_path) as deployment:
        yield deployment


@pytest.fixture
def logs_restored() -> Iterator[None]:
    """Undoes what the test did with `set_up_logs`."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if isinstance(one, StderrHandler)]:
        root.removeHandler(handler)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, logs_restored: None) -> Run:
    """Runs a command in this process."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)

    def run_command(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run_command


@attrs.frozen
class Created:
    """A hybrid connection that was made by a command, and its files."""

    state: Path
    connector: Path
    application: Path
    authority: Path

    def _rule(self, rule: str) -> Rule:
        with SQLiteStore.open(self.state, create=False) as store:
            return store.rule("orders", rule)

    def is_revoked(self, rule: str, slot: KeySlot) -> bool:
        """Whether the relay has no key in this place."""
        return self._rule(rule).key(slot) is None

    def key(self, rule: str, slot: KeySlot) -> Secret:
        """A key as the relay has it. Fails where it was revoked."""
        return key_of(self._rule(rule), slot)

    def key_text(self, rule: str, slot: KeySlot) -> str:
        """The text of a key as the relay has it."""
        return self.key(rule, slot).reveal()

    def secrets(self) -> set[str]:
        """Every key, shared access or private, in any of the files."""
        found = set()
        for path in (self.connector, self.application, self.authority):
            text = path.read_text()
            found.update(re.findall(r"(?:SharedAccessKey|PrivateKey)=([^;\s]+)", text))
            found.update(re.findall(r'"(?:key|private_key)": "([^"]+)"', text))
        return found


def regenerate(run: Run, created: Created, *more: str | Path, key: str = "primary") -> tuple[int, str, str]:
    """Replace a key of the rule ``application``; the exit code, and what was printed."""
    result = run(
        "keys", "regenerate", "orders", "--rule", "application", "--key", key, "--state", created.state, *more
    )
    return result.code, result.out, result.err


@pytest.fixture
def created(run: Run, tmp_path: Path) -> Created:
    """``orders``, made on the relay's machine."""
    made = Created(
        tmp_path / "state",
        tmp_path / "orders.connector",
        tmp_path / "orders.application",
        tmp_path / "orders.authority",
    )
    result = run(
        "connections", "create", "orders",
        "--target", "db.internal:5432",
        "--endpoint", "relay.example.com",
        "--connector-file", made.connector,
        "--application-file", made.application,
        "--state", made.state,
    )  # fmt: skip

    assert (result.code, result.err) == (0, "")

    return made
