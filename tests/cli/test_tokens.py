"""``hybridrelay tokens``."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from hybridrelay.relay import SQLiteStore

from .conftest import Created, Run


def test_tokens_are_created_listed_and_revoked(run: Run, created: Created, tmp_path: Path) -> None:
    where = ("--state", created.state)
    assert (
        run("tokens", "list", *where).out == "There are no tokens. To create one: hybridrelay tokens create --help\n"
    )
    out = tmp_path / "ci.token"
    made = run(
        "tokens", "create", "ci", "--role", "viewer", "--scope", "team/", "--expires", "2d", "--out", out, *where
    )
    assert made.code == 0
    text = out.read_text().strip()
    assert text not in made.out + made.err
    if sys.platform != "win32":
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with SQLiteStore.open(created.state) as store:
        (token,) = store.tokens()
    assert token.matches(text)
    assert token.expires_at - token.created_at == 2 * 86_400
    (listed,) = json.loads(run("tokens", "list", "--json", *where).out)
    assert (listed["name"], listed["id"], listed["role"]) == ("ci", token.id, "viewer")
    assert (listed["scope"], listed["last_used_at"]) == ("team/", None)
    row = run("tokens", "list", *where).out.splitlines()[1].split()
    assert row[:4] == ["ci", token.id, "viewer", "team/"]
    assert row[-1] == "never"
    assert run("tokens", "create", "ci", "--role", "admin", "--out", tmp_path / "x", *where).code == 2
    assert not (tmp_path / "x").exists()
    assert run("tokens", "revoke", "ci", *where).out == f"revoked token ci ({token.id})\n"
    gone = run("tokens", "revoke", token.id, *where)
    assert (gone.code, "no token" in gone.err) == (2, True)


def test_a_file_is_never_overwritten(run: Run, created: Created, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    result = run("tokens", "create", "a", "--role", "admin", "--out", tmp_path / "there", "--state", created.state)
    assert (result.code, "already exists" in result.err) == (2, True)
    assert (tmp_path / "there").read_text() == "mine"
    assert run("tokens", "list", "--json", "--state", created.state).out.strip() == "[]"


@pytest.mark.parametrize("expires", ["366d", "0d", "30", "d", "-1d", "99999d", "1.5d"])
def test_a_time_that_cannot_be(run: Run, created: Created, tmp_path: Path, expires: str) -> None:
    arguments = ("--role", "admin", f"--expires={expires}", "--out", tmp_path / "x", "--state", created.state)
    result = run("tokens", "create", "a", *arguments)
    assert (result.code, "at most 365d" in result.err) == (2, True)
