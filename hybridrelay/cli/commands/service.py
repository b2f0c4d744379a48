"""``hybridrelay service``: print, install, uninstall."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path, PurePosixPath

from ..._environment import without_secrets
from ..._replace_file import create_file, replace_file
from ...administration import ServiceRole, ServiceSettings, example_config, launchd_plist, systemd_unit, windows_text
from ...errors import ConfigurationError, HybridRelayError
from .. import exits, output

_UNITS = PurePosixPath("/etc/systemd/system")
_DAEMONS = PurePosixPath("/Library/LaunchDaemons")
#: A directory that exists where systemd is the init system (sd_booted(3)).
_BOOTED = Path("/run/systemd/system")
#: What a unit hides from its service (ProtectHome, PrivateTmp).
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - nothing is written there
#: How long a command of the system may take (seconds). Stopping a service takes as long as its grace period.
_SECONDS = 180
#: More than the longest first line of a script that the system accepts (bytes).
_LONGEST_LINE = 4096
#: A mode by which everybody can read a file that only root can change.
_PUBLIC = 0o644


def run_print(args: argparse.Namespace) -> int:
    """Print the file of a service."""
    output.say(_text(args, _settings(args)), end="")
    return exits.OK


def run_install(args: argparse.Namespace) -> int:
    """Install a service."""
    settings = _settings(args)
    root = _check_root(args)
    owner = None
    if args.root is None:
        _check_interpreter(args, settings)
        owner = _make_user(settings.user, _system(args))
        _check_access(root, settings, owner)
    _make_directory(root, settings.config_directory, 0o750, owner, of_root=True)
    _make_directory(root, settings.strings, 0o700, owner)
    if _system(args) == "launchd":
        _make_directory(root, settings.state, 0o700, owner)
    config = _below(root, settings.config)
    is_configured = config.exists()
    if not is_configured:
        _write(config, example_config(settings), _PUBLIC)
        output.say(f"wrote {config}")
    file = _below(root, _file(args, settings))
    was_installed = file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(file, _text(args, settings), _PUBLIC)
    output.say(f"wrote {file}")
    if args.root is None:
        if _system(args) == "systemd":
            _run("systemctl", "daemon-reload")
            _run("systemctl", "enable", settings.name)
        output.say(f"{settings.name} starts with this machine.")
    _tell_next(args, settings, is_configured=is_configured, was_installed=was_installed)
    return exits.OK


def run_uninstall(args: argparse.Namespace) -> int:
    """Stop a service, and remove its file."""
    settings = ServiceSettings(ServiceRole(args.role), "")
    root = _check_root(args)
    file = _below(root, _file(args, settings))
    if not file.exists():
        raise ConfigurationError(f"there is no {file}", remedy="the service is not installed, or has another name")
    if args.root is None:
        if _system(args) == "systemd":
            _run("systemctl", "disable", "--now", settings.name)
        else:
            # Something that is not loaded cannot be stopped.
            if _succeeds("launchctl", "print", f"system/{file.stem}"):
                _run("launchctl", "bootout", f"system/{file.stem}")
    file.unlink()
    if args.root is None and _system(args) == "systemd":
        _run("systemctl", "daemon-reload")
    output.say(f"removed {file}")
    output.say(f"{settings.config_directory}, {settings.state} and the user were not removed.")
    if settings.role is ServiceRole.RELAY and args.root is None and _system(args) == "systemd":
        output.say("Open sessions may continue for up to a minute (--keep-pairs); then its worker processes end.")
    return exits.OK


def _system(args: argparse.Namespace) -> str:
    here = {"linux": "systemd", "darwin": "launchd", "win32": "windows"}
    return str(args.system or here.get(sys.platform, "systemd"))


def _settings(args: argparse.Namespace) -> ServiceSettings:
    if _system(args) == "windows" and sys.platform != "win32":
        # It is for another machine, where this machine's paths mean nothing.
        return ServiceSettings(ServiceRole(args.role), str(args.program or "hybridrelay.exe"), args.user)
    program = Path(sys.argv[0]) if args.program is None else args.program
    found = shutil.which(program) or str(program)
    path = os.path.abspath(found)
    if any(character.isspace() or character in "%$\\\"';" for character in path) and _system(args) == "systemd":
        raise ConfigurationError(
            f"the path of the program has a blank or a special character: {path}",
            remedy="install hybridrelay elsewhere, for example in /opt/hybridrelay, or name another with --program",
        )
    if _system(args) == "systemd":
        _check_visible(path, "its program")
    return ServiceSettings(ServiceRole(args.role), path, args.user)


def _check_visible(path: str, what: str) -> None:
    if path.startswith(_HIDDEN):
        raise ConfigurationError(
            f"the service could not see {what}: {path}",
            remedy="home directories and temporary files are hidden from it: install hybridrelay elsewhere, for "
            "example in /opt/hybridrelay, with a Python that is not in a home directory, or name another with "
            "--program",
        )


def _check_interpreter(args: argparse.Namespace, settings: ServiceSettings) -> None:
    """Check that a service of systemd can read all parts of its program: the Python from which a virtual
    environment was made may be in a home directory, and so may the code, if it is installed in editable mode."""
    if _system(args) != "systemd":
        return
    if args.program is None:
        _check_visible(os.path.realpath(__file__), "the code of its program")
    program = Path(os.path.realpath(settings.program))
    _check_visible(str(program), "its program")
    try:
        with program.open("rb") as file:
            first = file.readline(_LONGEST_LINE)
    except OSError as exc:
        raise ConfigurationError(
            f"the program of the service cannot be read: {exc.strerror or exc}: {program}",
            remedy="name the program hybridrelay that the service is to run, with --program",
        ) from None
    if first.startswith(b"#!"):
        words = first[2:].split()
        if not words:
            raise ConfigurationError(
                f"the program of the service cannot start, because its first line names no interpreter: {program}",
                remedy="name the program hybridrelay that the service is to run, with --program",
            )
        _check_visible(os.path.realpath(words[0]).decode(errors="replace"), "the Python of its program")


def _text(args: argparse.Namespace, settings: ServiceSettings) -> str:
    match _system(args):
        case "launchd":
            return launchd_plist(settings)
        case "windows":
            try:
                return windows_text(settings)
            except ValueError as exc:
                raise ConfigurationError(str(exc), remedy="run the relay on Linux") from None
    return systemd_unit(settings)


def _file(args: argparse.Namespace, settings: ServiceSettings) -> PurePosixPath:
    if _system(args) == "launchd":
        return _DAEMONS / f"org.{settings.name.replace('-', '.')}.plist"
    return _UNITS / f"{settings.name}.service"


def _check_root(args: argparse.Namespace) -> Path:
    """Return the directory below which files are written."""
    if _system(args) == "windows":
        raise ConfigurationError(
            "services of Windows are not installed by this command",
            remedy=f"hybridrelay service print {args.role} --for windows says what to do",
        )
    if args.root is not None:
        return Path(args.root)
    if os.name != "posix" or os.geteuid() != 0:
        raise ConfigurationError("only root can install and remove services", remedy="run it with sudo")
    if _system(args) == "systemd" and not _BOOTED.is_dir():
        raise ConfigurationError(
            "systemd does not run on this machine",
            remedy="in a container, run the program itself; for an image of another machine, give --root DIR, which "
            "only writes files",
        )
    return Path("/")


def _below(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


def _make_user(name: str, system: str) -> str:
    """Create the user if it is missing. Returns its name."""
    import pwd  # imported here, because Windows does not have it

    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return name
    if system != "systemd":
        raise ConfigurationError(f"there is no user {name}", remedy="create it in the system settings, or use --user")
    _run(
        "useradd", "--system", "--user-group", "--home-dir", "/var/lib/hybridrelay", "--shell", "/usr/sbin/nologin",
        name,
    )  # fmt: skip
    output.say(f"created the user {name}")
    return name


def _check_access(root: Path, settings: ServiceSettings, owner: str) -> None:
    """Check that the service can use the directories that already exist."""
    import pwd  # imported here, because Windows does not have it

    user = pwd.getpwnam(owner)
    strings, config = (_below(root, path) for path in (settings.strings, settings.config_directory))
    if strings.exists() and (number := strings.stat().st_uid) != user.pw_uid:
        raise ConfigurationError(
            f"{strings} does not belong to the user {owner}, and the service has to write changed keys there",
            remedy=f"run all services of this machine as the user to whom it belongs ({_name_of(number)}): --user",
        )
    if config.exists():
        found = config.stat()
        if not found.st_mode & stat.S_IXOTH and found.st_gid != user.pw_gid and found.st_uid != user.pw_uid:
            raise ConfigurationError(
                f"the user {owner} cannot enter {config}",
                remedy=f"give it the group of {owner}, or let every user enter it: chmod a+x {config}",
            )


def _name_of(number: int) -> str:
    import pwd  # imported here, because Windows does not have it

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"number {number}"


def _make_directory(root: Path, path: PurePosixPath, mode: int, owner: str | None, *, of_root: bool = False) -> None:
    """Make a directory, if it is missing. It belongs to the service's user, or to root and the group of that user."""
    directory = _below(root, path)
    if directory.exists():
        return
    directory.mkdir(parents=True)
    directory.chmod(mode)
    if owner is not None:
        import pwd  # imported here, because Windows does not have it

        shutil.chown(directory, "root" if of_root else owner, pwd.getpwnam(owner).pw_gid)
    output.say(f"made {directory}")


def _write(path: Path, text: str, mode: int) -> None:
    if path.exists():
        replace_file(path, text)
    else:
        create_file(path, text.encode())
    path.chmod(mode)


def _succeeds(*command: str) -> bool:
    try:
        _run(*command)
    except HybridRelayError:
        return False
    return True


def _run(*command: str) -> None:
    program = shutil.which(command[0], path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if program is None:
        raise HybridRelayError(f"there is no program {command[0]} on this machine")
    try:
        done = subprocess.run(
            [program, *command[1:]], check=False, capture_output=True, text=True, timeout=_SECONDS,
            env=without_secrets(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HybridRelayError(f"{' '.join(command)} did not end within {_SECONDS} s") from None
    if done.returncode != 0:
        raise HybridRelayError(
            f"{' '.join(command)} has failed: {done.stderr.strip() or done.stdout.strip()}",
            remedy="correct this, and run the command again",
        )


def _tell_next(
    args: argparse.Namespace, settings: ServiceSettings, *, is_configured: bool, was_installed: bool
) -> None:
    if args.root is not None:
        output.say(
            f"Only files were written. On the machine itself, the user {settings.user} has to exist, "
            f"{settings.strings} has to belong to it, {settings.config_directory} to root and its group, and the "
            "service has to be enabled."
        )
    if settings.role is not ServiceRole.RELAY and not is_configured:
        output.say(
            f"Next: copy the connection strings to {settings.strings} (owner {settings.user}, mode 0600), and name "
            f"them in {settings.config}."
        )
    if _system(args) == "systemd":
        output.say(f"Then: systemctl {'restart' if was_installed else 'start'} {settings.name}")
    elif was_installed:
        label = f"system/{_file(args, settings).stem}"
        output.say(f"Then, if it is running: launchctl bootout {label}")
        output.say(f"Then: launchctl bootstrap system {_file(args, settings)}")
    else:
        output.say(f"Then: launchctl bootstrap system {_file(args, settings)}")
