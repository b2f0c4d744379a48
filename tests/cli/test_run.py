"""The options of `run`, and `run --check`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridrelay.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="'run' needs Linux")


def test_check_says_what_this_machine_allows(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["run", "--check"])
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" ")][:3] == [
        "host", "intercept", "private"
    ]  # fmt: skip
    main(["run", "--check", "--json"])
    found = json.loads(capsys.readouterr().out)
    usable = [one["network"] for one in found["networks"] if one["usable"]]
    assert code == (0 if usable else 1)
    assert found["default"] == (usable[0] if usable else None)
    assert text.count(" usable: ") - text.count("not usable: ") == len(usable)
    for one in found["networks"]:
        assert (one["remedy"] is None) == (one["detail"] is None) == one["usable"]


def test_an_application_has_to_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--connection-string-file", "F"]) == 125
    assert "no application is given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense", "--", "true"],
        ["--as", "localhost:80", "--", "true"],
        ["--network", "none", "--", "true"],
        ["--grace", "-1", "--", "true"],
        ["--log-json", "--grace", "-1", "--", "true"],
        ["--config", "/nonexistent/run.toml", "--", "true"],
        ["--connection-string-file", "/nonexistent/orders.application", "--", "true"],
        ["--audit-required", "file", "--connection-string-file", "/dev/null", "--", "true"],
    ],
    ids=" ".join,
)
def test_what_it_cannot_use_is_not_taken_for_the_applications_exit_code(arguments: list[str]) -> None:
    """An application may end with 1 or 2, too."""
    done = subprocess.run(
        [sys.executable, "-m", "hybridrelay", "run", *arguments], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--log-level", "bad", "run", "--", "true"], 125),
        (["--log-level=bad", "run", "--", "true"], 125),
        (["--log-json", "--log-level", "bad", "run", "--", "true"], 125),
        (["--nonsense", "run", "--", "true"], 125),
        (["--log-level", "run", "status"], 2),
        (["--log-level", "bad", "status", "run"], 2),
        (["--log-level", "bad"], 2),
    ],
)
def test_what_is_wrong_before_the_name_of_the_command_counts_as_its_own_failure(
    arguments: list[str], code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybridrelay", *arguments], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert "--help" in done.stderr


def test_options_of_the_application_come_after_two_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "psql", "--host", "x"]) == 125
    assert "--host" in capsys.readouterr().err


def test_other_systems_are_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("hybridrelay.cli.commands.run.sys.platform", "darwin")
    assert main(["run", "--connection-string-file", str(tmp_path / "f"), "--", "true"]) == 125
    assert "needs Linux" in capsys.readouterr().err
