"""The arguments of ``hybridrelay service`` and its subcommands."""

from __future__ import annotations

from ..command import Command
from ..parsing import Parser
from . import values

_ROLES = ("relay", "connector", "forward")

_PRINT = """\
Print the file that makes a relay, connector or forward a service of the operating system: a systemd unit (Linux), a
launchd property list (macOS), or a WinSW configuration (Windows). Nothing is changed.
"""
_INSTALL = """\
Install a relay, connector or forward as a systemd service, or with --for launchd as a service of macOS. Run the
command as root, from the installation of hybridrelay that the service is to run. Existing files stay, except the
service's own file, which is replaced.

  user            hybridrelay, without a login; created if it is missing
  configuration   /etc/hybridrelay/ROLE.toml, which belongs to root; an
                  initial file is written if there is none
  strings         /etc/hybridrelay/strings, for connection strings; it belongs
                  to the user, so that changed keys can be written
  state           /var/lib/hybridrelay (relay), /var/lib/hybridrelay-ROLE

The service will start at boot, once the network is configured. It is not started now: complete its configuration
first. The systemd unit is hardened: the service can write only to its own directories and has no privileges, except
that a relay may listen on ports below 1024.
"""
_UNINSTALL = """\
Stop a service and remove its file. Its user, configuration, connection strings and state stay.
"""


def _add_role(parser: Parser) -> None:
    parser.add_argument("role", metavar="relay|connector|forward", choices=_ROLES, help="the program")


def _add_where(parser: Parser, *, systems: tuple[str, ...]) -> None:
    parser.add_argument(
        "--for",
        dest="system",
        metavar="|".join(systems),
        choices=systems,
        help="the system (default: that of this machine)",
    )
    parser.add_argument(
        "--user", metavar="NAME", type=values.user_name, default="hybridrelay", help="the user (default: %(default)s)"
    )
    parser.add_argument(
        "--program",
        metavar="PATH",
        type=values.path,
        help="the program hybridrelay that the service runs (default: the one that runs this command)",
    )


def _add_print_arguments(parser: Parser) -> None:
    _add_role(parser)
    _add_where(parser, systems=("systemd", "launchd", "windows"))


def _add_root(parser: Parser, *, means: str) -> None:
    parser.add_argument("--root", metavar="DIR", type=values.path, help=means)


def _add_install_arguments(parser: Parser) -> None:
    _add_role(parser)
    _add_where(parser, systems=("systemd", "launchd"))
    _add_root(
        parser, means="only write the files, below this directory, and change nothing else: for packages and images"
    )


def _add_uninstall_arguments(parser: Parser) -> None:
    _add_role(parser)
    parser.add_argument(
        "--for",
        dest="system",
        metavar="systemd|launchd",
        choices=("systemd", "launchd"),
        help="the system (default: that of this machine)",
    )
    _add_root(parser, means="only remove the service's file below this directory, and change nothing else")


COMMAND = Command(
    "service",
    "install or remove relay, connector or forward as a system service",
    "Run relay, connector or forward as a service of the operating system.",
    "each command has its own --help:\n  hybridrelay service install --help\n",
    subcommands=(
        Command(
            "install",
            "install a service",
            _INSTALL,
            "example, as root, in the private network:\n"
            "  hybridrelay service install connector\n"
            "  install -o hybridrelay -m 0600 orders.connector /etc/hybridrelay/strings/\n"
            "  ... name it in /etc/hybridrelay/connector.toml, then:\n"
            "  systemctl start hybridrelay-connector\n",
            _add_install_arguments,
            run="service:run_install",
        ),
        Command(
            "uninstall",
            "stop and remove a service",
            _UNINSTALL,
            "example:\n  hybridrelay service uninstall connector\n",
            _add_uninstall_arguments,
            run="service:run_uninstall",
        ),
        Command(
            "print",
            "print the file that a system needs to run a service",
            _PRINT,
            "examples:\n  hybridrelay service print connector\n  hybridrelay service print forward --for launchd\n",
            _add_print_arguments,
            run="service:run_print",
        ),
    ),
)
