"""The services that `hybridrelay service` makes are complete, hardened, and understood by their systems."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

import pytest

from hybridrelay.administration import (
    ServiceRole,
    ServiceSettings,
    example_config,
    launchd_plist,
    systemd_unit,
    windows_text,
)
from hybridrelay.cli import main
from hybridrelay.cli.config_file import apply_config_file
from hybridrelay.cli.parser import build_parser

PROGRAM = "/opt/hybridrelay/bin/hybridrelay"
ROLES = list(ServiceRole)


def settings(role: ServiceRole) -> ServiceSettings:
    return ServiceSettings(role, PROGRAM)


def analyze(unit: str, name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail("systemd-analyze is not installed, and CI has to install it (.ci/run)")
        pytest.skip("needs systemd-analyze")
    path = folder / f"{name}.service"
    path.write_text(unit)
    command = ["systemd-analyze", *arguments, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_is_complete(role: ServiceRole) -> None:
    unit = systemd_unit(settings(role))
    lines = unit.splitlines()

    assert {"[Unit]", "[Service]", "[Install]", "WantedBy=multi-user.target"} <= set(lines)
    assert {"Wants=network-online.target", "After=network-online.target"} <= set(lines)
    assert {"User=hybridrelay", "Restart=always", "RestartPreventExitStatus=2", "Type=notify"} <= set(lines)
    (command,) = re.findall(rf"^ExecStart={PROGRAM} (.*)$", unit, re.MULTILINE)
    args = build_parser().parse_args(shlex.split(command))
    assert args.command == role
    assert args.config == Path(f"/etc/hybridrelay/{role}.toml")


@pytest.mark.parametrize("role", ROLES)
def test_systemd_has_nothing_to_say_about_a_unit(role: ServiceRole, tmp_path: Path) -> None:
    name = settings(role).name
    unit = systemd_unit(settings(role)).replace(PROGRAM, "/bin/true")
    done = analyze(unit, name, tmp_path, "verify", "--man=no")

    assert (done.returncode, done.stdout) == (0, "")
    assert name not in done.stderr, done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_is_hardened(role: ServiceRole, tmp_path: Path) -> None:
    security = ("security", "--offline=yes", "--threshold=20")
    unit = systemd_unit(settings(role))
    done = analyze(unit, settings(role).name, tmp_path, *security)
    assert done.returncode == 0, done.stdout
    # What is checked is noticed: without these lines, the exposure is too high.
    weak = re.sub(r"^(Protect|Restrict|SystemCall|CapabilityBounding).*\n", "", unit, flags=re.MULTILINE)
    assert analyze(weak, settings(role).name, tmp_path, *security).returncode == 1


@pytest.mark.parametrize("role", ROLES)
def test_launchd(role: ServiceRole) -> None:
    content = plistlib.loads(launchd_plist(settings(role)).encode())
    program, *arguments = content["ProgramArguments"]
    assert program == PROGRAM
    assert build_parser().parse_args(arguments).command == role
    assert content["UserName"] == "hybridrelay"


@pytest.mark.parametrize("role", [ServiceRole.CONNECTOR, ServiceRole.FORWARD])
def test_windows(role: ServiceRole) -> None:
    service = ET.fromstring(windows_text(settings(role)))
    arguments = service.findtext("arguments")
    assert arguments is not None
    assert build_parser().parse_args(shlex.split(arguments, posix=False)).command == role
    with pytest.raises(ValueError, match="does not run on Windows"):
        windows_text(settings(ServiceRole.RELAY))


@pytest.mark.parametrize("role", ROLES)
def test_the_configuration_to_begin_with(role: ServiceRole, tmp_path: Path) -> None:
    """As it is, and with its comments made into settings."""
    text = example_config(settings(role))
    for content in (text, re.sub(r"^# (\[\[|file|listen)", r"\1", text, flags=re.MULTILINE)):
        path = tmp_path / "file.toml"
        path.write_text(content)
        args = build_parser().parse_args([role])
        apply_config_file(args, path)
        if role is ServiceRole.RELAY:
            assert args.state == Path("/var/lib/hybridrelay")
    if role is not ServiceRole.RELAY:
        (connection,) = args.connections
        assert Path(connection.file).parent == tmp_path / "strings"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("system", ["systemd", "launchd"])
def test_install_and_uninstall_below_a_directory(
    role: ServiceRole, system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For packages: nothing else is changed, and what is there stays."""
    where = ["--for", system, "--root", str(tmp_path)]
    install = ["service", "install", role, *where, "--program", PROGRAM]
    assert main(install) == 0
    name = {"systemd": f"hybridrelay-{role}.service", "launchd": f"org.hybridrelay.{role}.plist"}[system]
    (file,) = [path for path in tmp_path.rglob("*") if path.name == name]
    config = tmp_path / f"etc/hybridrelay/{role}.toml"
    strings = tmp_path / "etc/hybridrelay/strings"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, config, config.parent, strings)] == [
        0o644, 0o644, 0o750, 0o700,
    ]  # fmt: skip
    config.write_text("# mine\n")
    text = file.read_text()
    file.write_text("an earlier version")
    assert main(install) == 0
    assert (config.read_text(), file.read_text()) == ("# mine\n", text)
    capsys.readouterr()
    assert main(["service", "uninstall", role, *where]) == 0
    assert not file.exists()
    assert config.exists()
    assert main(["service", "uninstall", role, *where]) == 2
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["print", "relay", "--for", "windows"], "a relay does not run on Windows"),
        (["print", "relay", "--program", "/opt/a b/hybridrelay"], "has a blank or a special character"),
        (["print", "relay", "--program", "/root/.local/bin/hybridrelay"], "could not see its program"),
        (["print", "relay", "--user", "a b"], "expected the name of a user"),
        (["print", "client"], "relay"),
    ],
)
def test_what_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["service", *arguments])
    except SystemExit as exc:
        code = int(str(exc.code))
    assert code == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def fake_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of the system that write down how they are called."""
    for name in ("systemctl", "useradd"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "calls"


def test_what_is_run_on_a_real_machine(fake_system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, with the paths below a directory and the system's programs replaced: their order and arguments."""
    from hybridrelay.cli.commands import service

    monkeypatch.setattr(service, "_below", lambda root, path: tmp_path / PurePosixPath(path).relative_to("/"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "chown", lambda *arguments: None)
    common = ["--for", "systemd", "connector"]
    assert main(["service", "install", *common, "--user", "nobody-knows-me", "--program", PROGRAM]) == 0
    assert main(["service", "uninstall", *common]) == 0
    assert fake_system.read_text().splitlines() == [
        "useradd --system --user-group --home-dir /var/lib/hybridrelay --shell /usr/sbin/nologin nobody-knows-me",
        "systemctl daemon-reload",
        "systemctl enable hybridrelay-connector",
        "systemctl disable --now hybridrelay-connector",
        "systemctl daemon-reload",
    ]
