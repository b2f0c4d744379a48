"""Running relay, connector or forward as a service of the operating system: the text that each system needs. Pure."""

from __future__ import annotations

import enum
import plistlib
from pathlib import PurePosixPath
from typing import Final
from xml.sax.saxutils import escape

import attrs

__all__ = ["ServiceRole", "ServiceSettings", "example_config", "launchd_plist", "systemd_unit", "windows_text"]

#: How long launchd or WinSW waits for a program to stop, including its grace period, before it is killed (seconds).
_STOP_SECONDS: Final = 90


class ServiceRole(enum.StrEnum):
    """The programs that can be services."""

    RELAY = "relay"
    CONNECTOR = "connector"
    FORWARD = "forward"


@attrs.frozen
class ServiceSettings:
    """Which program a service runs, where the program is, and as which user it runs."""

    role: ServiceRole
    #: The path of the program ``hybridrelay``.
    program: str
    #: The user under whose name it runs.
    user: str = "hybridrelay"

    @property
    def config_directory(self) -> PurePosixPath:
        """The directory of the configuration file, which belongs to root."""
        return PurePosixPath("/etc/hybridrelay")

    @property
    def name(self) -> str:
        """The name of the service."""
        return f"hybridrelay-{self.role}"

    @property
    def config(self) -> PurePosixPath:
        """The configuration file."""
        return self.config_directory / f"{self.role}.toml"

    @property
    def strings(self) -> PurePosixPath:
        """The directory of the connection strings, which belongs to the user, so that changed keys can be written."""
        return self.config_directory / "strings"

    @property
    def state(self) -> PurePosixPath:
        """The directory of the state, which belongs to the user."""
        return PurePosixPath("/var/lib") / ("hybridrelay" if self.role is ServiceRole.RELAY else self.name)

    @property
    def status(self) -> PurePosixPath:
        """The socket at which a connector or forward serves its status."""
        return self.state / "status.sock"


_COMMON: Final = """\
LimitNOFILE=1048576
Restart=always
RestartSec=2
RestartPreventExitStatus=2
WatchdogSec=60
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
RemoveIPC=yes
UMask=0077
KeyringMode=private
"""
#: A relay listens on ports below 1024. Its workers outlive the main process, so that sessions survive a restart.
_RELAY: Final = """\
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
KillMode=process
ProcSubset=pid
"""
#: A connector waits as long as necessary until it is registered.
_OTHERS: Final = """\
CapabilityBoundingSet=
PrivateUsers=yes
TimeoutStartSec=infinity
ReadWritePaths=-{strings}
"""


def systemd_unit(settings: ServiceSettings) -> str:
    """Return the unit of systemd. `systemd-analyze security` rates its exposure at less than 2.0 (of 10)."""
    own = _RELAY if settings.role is ServiceRole.RELAY else _OTHERS.format(strings=settings.strings)
    return f"""\
[Unit]
Description=hybridrelay {settings.role}
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart={settings.program} {settings.role} --config {settings.config}
ExecReload=/bin/kill -HUP $MAINPID
User={settings.user}
StateDirectory={settings.state.name}
StateDirectoryMode=0700
{own}{_COMMON}
[Install]
WantedBy=multi-user.target
"""


def launchd_plist(settings: ServiceSettings) -> str:
    """Return the property list of launchd (macOS), for ``/Library/LaunchDaemons``."""
    content = {
        "Label": f"org.{settings.name.replace('-', '.')}",
        "ProgramArguments": [settings.program, str(settings.role), "--config", str(settings.config)],
        "UserName": settings.user,
        "RunAtLoad": True,
        # Exit code 2: a file cannot be used, so that a restart does not help. launchd has no such condition; it waits
        # between two starts.
        "KeepAlive": True,
        "ThrottleInterval": 10,
        "ExitTimeOut": _STOP_SECONDS,
        "EnvironmentVariables": {"STATE_DIRECTORY": str(settings.state)},
        "StandardOutPath": f"/var/log/{settings.name}.log",
        "StandardErrorPath": f"/var/log/{settings.name}.log",
        "SoftResourceLimits": {"NumberOfFiles": 65536},
        "HardResourceLimits": {"NumberOfFiles": 65536},
        "Umask": 0o077,
    }
    return plistlib.dumps(content).decode()


def windows_text(settings: ServiceSettings) -> str:
    """Return a configuration of WinSW, with instructions for an administrator in a comment.

    Windows starts services only through a program that speaks its service protocol, which hybridrelay does not do.
    The text uses WinSW, which is such a program. A relay does not run on Windows.

    Raises:
        ValueError: the role is that of a relay.
    """
    if settings.role is ServiceRole.RELAY:
        raise ValueError("a relay does not run on Windows")
    # Not below %ProgramData%: there, every user may make a directory, and keeps it whatever icacls grants to others.
    base = r"%ProgramFiles%\hybridrelay"
    # The account is given in the forms of WinSW 2 (domain, user) and WinSW 3 (username), which ignore each other's
    # form. Without a form that it knows, WinSW runs the service with all rights, as LocalSystem.
    return rf"""<!-- {settings.name}.xml: the configuration of WinSW (https://github.com/winsw/winsw), which runs
     a program as a service: the one that is named in <executable>, under the account LocalService.

     1. Make the directories, as an administrator, in a command prompt. LocalService may read the first one, and
        write to the other two. Nobody else has access, except administrators and the system. Do not use a place where
        other users may make directories, such as %ProgramData%: the owner of a directory can change who has access.
        The program in <executable>, too, has to be where only administrators can write.
          mkdir "{base}\strings" "{base}\log"
          icacls "{base}" /inheritance:r /grant *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F *S-1-5-19:(OI)(CI)RX
          icacls "{base}\strings" /grant *S-1-5-19:(OI)(CI)M
          icacls "{base}\log" /grant *S-1-5-19:(OI)(CI)M
     2. Copy WinSW-x64.exe to "{base}\{settings.name}.exe", and this file to "{base}\{settings.name}.xml".
     3. Write "{base}\{settings.role}.toml", and copy the connection strings that it names to "{base}\strings".
     4. Install and start the service:
          "{base}\{settings.name}.exe" install
          "{base}\{settings.name}.exe" start

     To remove it, run the same program with stop, and then with uninstall. -->
<service>
  <id>{settings.name}</id>
  <name>hybridrelay {settings.role}</name>
  <description>hybridrelay {settings.role}</description>
  <executable>{escape(settings.program)}</executable>
  <arguments>{settings.role} --config "{base}\{settings.role}.toml"</arguments>
  <serviceaccount>
    <domain>NT AUTHORITY</domain>
    <user>LocalService</user>
    <username>NT AUTHORITY\LocalService</username>
  </serviceaccount>
  <startmode>Automatic</startmode>
  <delayedAutoStart>true</delayedAutoStart>
  <depend>Dnscache</depend>
  <onfailure action="restart" delay="5 sec"/>
  <stoptimeout>{_STOP_SECONDS} sec</stoptimeout>
  <logpath>{base}\log</logpath>
  <log mode="roll-by-size"/>
</service>
"""


def example_config(settings: ServiceSettings) -> str:
    """Return a configuration file to begin with. That of a relay is complete; the others need a connection."""
    if settings.role is ServiceRole.RELAY:
        return f"""\
# Options of hybridrelay relay; see hybridrelay relay --help. Most changes take effect at SIGHUP, the others after a
# restart; the log says which.
state = "{settings.state}"

# A certificate from a public CA for port 443, which the user {settings.user} can read. It may be renewed at any time.
# tls-certificate = "fullchain.pem"
# tls-key = "privkey.pem"

# The dashboard and the management API, besides the socket in the state directory.
# management = "127.0.0.1:9180"
"""
    listen = '# listen = "127.0.0.1:5432"\n' if settings.role is ServiceRole.FORWARD else ""
    side = "application" if settings.role is ServiceRole.FORWARD else "connector"
    return f"""\
# Options of hybridrelay {settings.role}, and a table for each hybrid connection.
# Changed tables and most changed options take effect without a restart; the log names the options that need one.

# To see it: hybridrelay status --from {settings.status}
status = "{settings.status}"

# [[connection]]
# file = "strings/orders.{side}"
{listen}"""
