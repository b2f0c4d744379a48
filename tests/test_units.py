"""The services that `hybridrelay service` makes are complete, hardened, and understood by their systems."""

from __future__ import annotations

import os
import plistlib
import pwd
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
from hybridrelay.cli.commands import service
from hybridrelay.cli.config_file import apply_config_file
from hybridrelay.cli.parser import build_parser

PROGRAM = "/opt/hybridrelay/bin/hybridrelay"
ROLES = list(ServiceRole)


def settings(role: ServiceRole) -> ServiceSettings:
    return ServiceSettings(role, PROGRAM)


def analyze(unit: str, name: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail("systemd-analyze is not installed, and CI has to install it (.ci/run)")
        pytest.skip("needs systemd-analyze")
    path = directory / f"{name}.service"
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
def test_the_file_for_launchd_starts_the_command_as_its_own_user(role: ServiceRole) -> None:
    content = plistlib.loads(launchd_plist(settings(role)).encode())
    program, *arguments = content["ProgramArguments"]
    assert program == PROGRAM
    assert build_parser().parse_args(arguments).command == role
    assert content["UserName"] == "hybridrelay"


@pytest.mark.parametrize("role", [ServiceRole.CONNECTOR, ServiceRole.FORWARD])
def test_the_file_for_windows_starts_the_command_as_a_local_service(role: ServiceRole) -> None:
    text = windows_text(settings(role))
    root = ET.fromstring(text)
    arguments = root.findtext("arguments")
    assert arguments is not None
    assert build_parser().parse_args(shlex.split(arguments, posix=False)).command == role
    assert root.findtext("executable") == PROGRAM
    # WinSW 2 reads domain and user, WinSW 3 reads username. Without an account, the service would be LocalSystem.
    account = {child.tag: child.text for child in root.findall("serviceaccount/*")}
    assert account == {
        "domain": "NT AUTHORITY", "user": "LocalService", "username": r"NT AUTHORITY\LocalService",
    }  # fmt: skip
    # What the account may write is made by the instructions.
    folder = r"%ProgramFiles%\hybridrelay"
    assert rf'mkdir "{folder}\strings" "{folder}\log"' in text
    assert "%ProgramData%\\" not in text  # every user may have made the folder there
    assert root.findtext("logpath") == rf"{folder}\log"
    assert all(rf'icacls "{folder}\{name}" /grant *S-1-5-19:(OI)(CI)M' in text for name in ("strings", "log"))
    with pytest.raises(ValueError, match="does not run on Windows"):
        windows_text(settings(ServiceRole.RELAY))


@pytest.mark.parametrize("role", ROLES)
def test_the_configuration_to_begin_with(role: ServiceRole, tmp_path: Path) -> None:
    """It is valid as it is, and with its comments made into settings."""
    text = example_config(settings(role))
    for content in (text, re.sub(r"^# (\[\[|file|listen|tls|management)", r"\1", text, flags=re.MULTILINE)):
        path = tmp_path / "file.toml"
        path.write_text(content)
        args = build_parser().parse_args([role])
        apply_config_file(args, path)
        if role is ServiceRole.RELAY:
            assert args.state == Path("/var/lib/hybridrelay")
        else:
            assert str(args.status) == f"/var/lib/hybridrelay-{role}/status.sock"
    if role is not ServiceRole.RELAY:
        (connection,) = args.connections
        assert Path(connection.file).parent == tmp_path / "strings"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("system", ["systemd", "launchd"])
def test_install_and_uninstall_below_a_directory(
    role: ServiceRole, system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This is for packages: nothing else is changed, and what is there stays."""
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


def test_a_program_for_windows(capsys: pytest.CaptureFixture[str]) -> None:
    """Its path is that of another machine."""
    command = ["service", "print", "connector", "--for", "windows"]
    assert main(command) == 0
    assert "<executable>hybridrelay.exe</executable>" in capsys.readouterr().out
    assert main([*command, "--program", r"C:\Program Files\R&D\hybridrelay.exe"]) == 0
    root = ET.fromstring(capsys.readouterr().out)
    assert root.findtext("executable") == r"C:\Program Files\R&D\hybridrelay.exe"


class Machine:
    """A machine, below a directory, whose user databases and programs are replaced."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.calls_file = directory / "calls"
        self.calls_file.touch()
        self.users: dict[str, tuple[int, int]] = {}
        self.owners: dict[str, tuple[str | None, int | None]] = {}
        for name in ("systemctl", "launchctl", "useradd"):
            program = directory / "bin" / name
            program.parent.mkdir(exist_ok=True)
            # Nothing is loaded in launchd.
            status = f'[ "$1" != print ] || [ -e {directory}/loaded ]' if name == "launchctl" else "true"
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls_file}\n{status}\n')
            program.chmod(0o755)
        #: The program of the services, and the Python that runs it.
        self.program = directory / "bin" / "hybridrelay"
        self.program.write_text(f"#!{directory}/bin/python\n")
        monkeypatch.setenv("PATH", f"{directory}/bin{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(service, "_below", lambda root, path: directory / PurePosixPath(path).relative_to("/"))
        monkeypatch.setattr(service, "_HIDDEN", (f"{directory}/home/",))
        monkeypatch.setattr(service, "_BOOTED", directory)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(pwd, "getpwnam", self._user)
        monkeypatch.setattr(shutil, "chown", self._chown)

    def _user(self, name: str) -> pwd.struct_passwd:
        if f" {name}\n" in self.calls_file.read_text():  # useradd has made it, and its group
            self.users.setdefault(name, (os.getuid(), os.getgid()))
        uid, gid = self.users[name]
        return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/sbin/nologin"))

    def _chown(self, path: Path, user: str | None = None, group: int | None = None) -> None:
        self.owners[str(path.relative_to(self.directory))] = (user, group)

    def run(self, action: str, *arguments: str, system: str = "systemd") -> int:
        options = ["--program", str(self.program)] if action == "install" else []
        return main(["service", action, "--for", system, *arguments, *options])

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_what_is_run_on_a_real_machine(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """The user is root, and the system's programs are replaced: their order and arguments are checked."""
    assert machine.run("install", "connector", "--user", "nobody-knows-me") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Then: systemctl start hybridrelay-connector"
    assert machine.run("install", "connector", "--user", "nobody-knows-me") == 0
    again = capsys.readouterr().out
    assert "Next:" not in again  # it is configured
    assert again.splitlines()[-1] == "Then: systemctl restart hybridrelay-connector"
    assert machine.run("uninstall", "connector") == 0
    assert machine.calls == [
        "useradd --system --user-group --home-dir /var/lib/hybridrelay --shell /usr/sbin/nologin nobody-knows-me",
        *["systemctl daemon-reload", "systemctl enable hybridrelay-connector"] * 2,
        "systemctl disable --now hybridrelay-connector",
        "systemctl daemon-reload",
    ]


def test_a_machine_without_systemd(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left behind."""
    monkeypatch.setattr(service, "_BOOTED", machine.directory / "missing")
    for action in ("install", "uninstall"):
        assert machine.run(action, "connector") == 2
        assert "systemd does not run on this machine" in capsys.readouterr().err
    assert machine.calls == []
    assert not (machine.directory / "etc").exists()


def test_a_user_whose_group_has_another_name(machine: Machine) -> None:
    """Its group gets the directories, and the unit names no group."""
    machine.users["alice"] = (os.getuid(), 4321)
    assert machine.run("install", "forward", "--user", "alice") == 0
    assert machine.owners == {"etc/hybridrelay": ("root", 4321), "etc/hybridrelay/strings": ("alice", 4321)}
    unit = (machine.directory / "etc/systemd/system/hybridrelay-forward.service").read_text()
    assert "User=alice\n" in unit
    assert "Group=" not in unit


def test_directories_of_another_user_are_refused(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written then."""
    assert machine.run("install", "relay", "--user", "first") == 0
    machine.users["second"] = (os.getuid() + 1, os.getgid())
    assert machine.run("install", "connector", "--user", "second") == 2
    assert "does not belong to the user second" in capsys.readouterr().err
    (machine.directory / "etc/hybridrelay/strings").rmdir()
    machine.users["second"] = (os.getuid() + 1, os.getgid() + 1)
    assert machine.run("install", "connector", "--user", "second") == 2
    assert "the user second cannot enter" in capsys.readouterr().err
    assert not (machine.directory / "etc/hybridrelay/connector.toml").exists()
    (machine.directory / "etc/hybridrelay").chmod(0o751)
    assert machine.run("install", "connector", "--user", "second") == 0


@pytest.mark.parametrize("hidden", ["program", "python"])
def test_a_program_that_the_service_cannot_see(
    hidden: str, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program, or the Python of its virtual environment, is a link into a home directory."""
    home = machine.directory / "home"
    home.mkdir()
    if hidden == "program":
        machine.program.rename(home / "hybridrelay")
        machine.program.symlink_to(home / "hybridrelay")
    else:
        (home / "python3.11").touch()
        (machine.directory / "bin/python").symlink_to(home / "python3.11")
    assert machine.run("install", "relay") == 2
    shown = capsys.readouterr()
    assert "the service could not see" in shown.err
    assert str(home) in shown.err
    assert (shown.out, machine.calls) == ("", [])


def test_a_program_without_an_interpreter(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.program.write_bytes(b"#! \nexit\n")
    assert machine.run("install", "relay") == 2
    shown = capsys.readouterr()
    assert f"its first line names no interpreter: {machine.program}" in shown.err
    assert (shown.out, machine.calls) == ("", [])


def test_launchd_stops_what_is_loaded(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.users["_hr"] = (os.getuid(), os.getgid())
    for is_loaded in (False, True):
        assert machine.run("install", "relay", "--user", "_hr", system="launchd") == 0
        if is_loaded:
            (machine.directory / "loaded").touch()
        assert machine.run("uninstall", "relay", system="launchd") == 0
        assert ("launchctl bootout system/org.hybridrelay.relay" in machine.calls) is is_loaded
