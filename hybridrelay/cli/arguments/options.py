"""Options and help texts that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ... import _defaults
from ..parsing import Parser
from . import values

#: A part of the help of commands that run until they are stopped.
WHAT_IT_DOES = """\
At SIGUSR1 (kill -USR1 PID; not on Windows), the program logs its current state: one line of JSON with the numbers of
its sessions, streams, tasks and descriptors, and its memory use."""

#: A part of the help of commands that reload at SIGHUP; `what` names what they reload, and `unless` says when
#: an open connection ends because of it.
RELOADS = """\
When a file has changed, and at SIGHUP (kill -HUP PID; not on Windows), the program reloads {what}. Open
connections are not affected{unless}. The log says what was reloaded. If a file cannot be used, the program keeps what
it read before. SIGHUP does not end the program."""

#: The options for reaching relays, as a part of `what`.
HOW_REACHED = (
    "the options for reaching relays (--proxy, --websocket-path-prefix, and the files of --proxy-password-file and "
    "--websocket-headers-file)"
)

#: The help of ``--state`` of commands that administer a relay.
_WHICH_STATE = (
    "the relay's state directory; the command has to run as its owner (while the relay runs, root works, too)"
)

#: A part of the help of commands that use connection strings.
WHERE_FROM = """\
Connection strings come from files, from standard input (-), or, if no file is named, from the environment variable
HYBRIDRELAY_CONNECTION_STRING. They are never given on the command line, which every user of the machine can see. The
files are written by 'hybridrelay connections create' and 'connections issue'."""


def add_how_reached(parser: argparse.ArgumentParser) -> None:
    """Add the options for reaching relays: the transport, the proxy, and how HTTP requests are made."""
    _add_mode(parser)
    _add_exec_command(parser)
    _add_proxy(parser)
    _add_http(parser)


def _add_mode(parser: argparse.ArgumentParser) -> None:
    """Add ``--mode``."""
    parser.add_argument(
        "--mode",
        metavar="auto|tcp|websocket|exec",
        default="auto",
        help="the transport: the best one that works (auto, the default), or only the one named",
    )


def add_files(parser: argparse.ArgumentParser, *, means: str) -> None:
    """Add ``--connection-string-file``, which takes several files and may be repeated. `files` is their list."""
    parser.add_argument(
        "--connection-string-file",
        metavar="F",
        dest="files",
        type=values.path_or_stdin,
        nargs="+",
        action="extend",
        default=[],
        help=f"one or more files with {means}; - for standard input",
    )


def add_claim_file(parser: argparse.ArgumentParser) -> None:
    """Add ``--claim-file``."""
    parser.add_argument(
        "--claim-file",
        metavar="F",
        type=values.path_or_stdin,
        help="a file with the code of a claim (see 'hybridrelay claims --help'); - for standard input; if the file "
        "of --connection-string-file does not exist yet, the claim is taken, and its connection string is written "
        "there; otherwise this option is ignored",
    )


def add_policy_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--policy-dir``. `policy_dirs` is the list of directories."""
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        dest="policy_dirs",
        type=values.path,
        action="append",
        default=[],
        help="a directory with further policy files (*.toml), which can only restrict what this machine's policy "
        "allows (may be repeated)",
    )


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add ``--status``."""
    parser.add_argument(
        "--status",
        metavar="PATH|ADDR:PORT",
        type=values.status_address,
        help="serve status, metrics and health over HTTP here: on a Unix socket, to which only this user and root "
        "can connect, or on a loopback address; port 0: any free port, which the log shows (default: nowhere)",
    )


def add_grace(parser: argparse.ArgumentParser) -> None:
    """Add ``--grace``."""
    means = "how long open connections may continue after SIGTERM; a second signal ends the program at once"
    _add_seconds(parser, "--grace", default=_defaults.GRACE, means=means)


def add_resume_deadline(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume-deadline``."""
    means = "how long open connections wait for a lost session to resume before they are reset"
    _add_seconds(parser, "--resume-deadline", default=_defaults.RESUME_DEADLINE, means=means)


def add_open_patience(parser: argparse.ArgumentParser) -> None:
    """Add ``--open-patience``."""
    means = (
        "how long a new connection waits while the relay or the connector is unavailable, before it is reset; "
        "0: it is reset immediately"
    )
    _add_seconds(parser, "--open-patience", default=_defaults.OPEN_PATIENCE, means=means)


def add_upgrade_interval(parser: argparse.ArgumentParser) -> None:
    """Add ``--upgrade-interval``."""
    means = (
        "about how long after falling back to a worse route the program first looks for a better one; later "
        "intervals are longer"
    )
    _add_seconds(parser, "--upgrade-interval", low=0.1, default=_defaults.UPGRADE_INTERVAL, means=means)


def _add_seconds(parser: argparse.ArgumentParser, option: str, *, low: float = 0, default: float, means: str) -> None:
    parser.add_argument(
        option,
        metavar="SECONDS",
        type=values.seconds(low),
        default=default,
        help=f"{means} (default: %(default)g)",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``. The command has to call `use_config_file` before it uses its options."""
    parser.add_argument("--config", metavar="FILE.toml", type=values.path, help="take options from this file")
    parser.set_defaults(parser=parser)


def add_connection_tables(
    parser: argparse.ArgumentParser, add_keys: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Let the file of ``--config`` have tables ``[[connection]]``, one for each hybrid connection.

    Args:
        parser: the parser of a command with `add_config`.
        add_keys: adds further keys of such a table, as options.
    """
    keys = Parser(add_help=False)
    keys.add_argument("--file", metavar="F", type=values.path_or_stdin)
    keys.add_argument("--credential", metavar="NAME", type=values.credential)
    add_keys(keys)
    parser.set_defaults(connections=[], connection_keys=keys)


def _add_proxy(parser: argparse.ArgumentParser) -> None:
    """Add ``--proxy`` and ``--proxy-password-file``."""
    parser.add_argument(
        "--proxy",
        metavar="URL",
        help=(
            "http://, https:// or socks5://[user@]host[:port]; none: connect directly (default: the environment "
            "variables HTTPS_PROXY or ALL_PROXY, and NO_PROXY)"
        ),
    )
    parser.add_argument(
        "--proxy-password-file",
        metavar="F",
        type=values.path,
        help="a file with the proxy user's password (default: the environment variable "
        f"{_defaults.PROXY_PASSWORD_VARIABLE})",
    )


def _add_http(parser: argparse.ArgumentParser) -> None:
    """Add ``--websocket-path-prefix`` and ``--websocket-headers-file``."""
    parser.add_argument(
        "--websocket-path-prefix",
        metavar="PATH",
        type=values.path_prefix,
        help="the path below which a reverse proxy or CDN in front of the relay serves it: /edge/relay for "
        "/edge/relay/hybridrelay",
    )
    parser.add_argument(
        "--websocket-headers-file",
        metavar="F",
        type=values.path,
        help="a file with header fields that an access proxy in front of the relay requires, one 'Name: value' on "
        "each line; they are secrets, and are sent only over https, to a server with a valid certificate",
    )


def _add_exec_command(parser: argparse.ArgumentParser) -> None:
    """Add ``--exec-command``."""
    parser.add_argument(
        "--exec-command",
        metavar="COMMAND",
        type=values.command,
        help=(
            "for --mode exec: the command whose standard input and output lead to the relay, such as "
            "'ssh HOST hybridrelay relay-stdio --state DIR'; quoted as in a shell, but no shell runs it"
        ),
    )


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add ``NAME``."""
    parser.add_argument("name", metavar="NAME", type=values.connection_name, help="the hybrid connection")


_WHICH_RELAY = """\
Use --state on the relay's machine. If a relay is running with this state directory, it carries out the command.
Otherwise, the command {instead}. Use --management on any machine, for a relay that runs with its own option
--management; 'tokens create' creates the token. For example:
  --management https://relay.example.com:9180 --token-file {role}.token"""
_WHICH_RUNNING_RELAY = """\
Use --state on the relay's machine. Use --management on any machine, for a relay that runs with its own option
--management; 'tokens create' creates the token. For example:
  --management https://relay.example.com:9180 --token-file {role}.token"""


def add_relay(
    parser: argparse.ArgumentParser,
    *,
    has_to_run: bool = False,
    role: str = "admin",
    instead: str = "uses the registry in the state directory directly",
) -> argparse._ActionsContainer:
    """Add ``--state`` and ``--management``, exactly one of which is required, and further options for the latter.

    Args:
        parser: the command's parser.
        has_to_run: whether the command works only while the relay is running.
        role: the lowest role of a token for the command, which names the token file in the example.
        instead: what a command that does not need a running relay does with ``--state`` while none is running there.

    Returns:
        The group of options of which exactly one is required, to which the caller may add others.
    """
    text = _WHICH_RUNNING_RELAY.format(role=role) if has_to_run else _WHICH_RELAY.format(instead=instead, role=role)
    group = parser.add_argument_group("the relay", text)
    which = group.add_mutually_exclusive_group(required=True)
    add_state_or_management(which, group)
    return which


def add_state_or_management(which: argparse._ActionsContainer, others: argparse._ActionsContainer) -> None:
    """Add ``--state``, ``--management``, and the options that only apply to the latter.

    Args:
        which: the group of mutually exclusive options to which the first two are added.
        others: the parser or group to which the other options are added.
    """
    which.add_argument(
        "--state",
        metavar="DIR",
        type=values.path,
        help=_WHICH_STATE,
    )
    add_management(which, others)


def add_management(which: argparse._ActionsContainer, others: argparse._ActionsContainer) -> None:
    """Add ``--management``, and the options that only apply to it.

    Args:
        which: the group of mutually exclusive options to which ``--management`` is added.
        others: the parser or group to which the other options are added.
    """
    which.add_argument(
        "--management",
        metavar="URL",
        type=values.management_url,
        help="the URL of the relay's management API; http:// is accepted for this machine only",
    )
    others.add_argument(
        "--token-file",
        metavar="F",
        type=values.token_file,
        help="with --management: the file with the token; - for standard input (default: the file that the "
        f"environment variable {_defaults.MANAGEMENT_TOKEN_FILE_VARIABLE} names)",
    )
    others.add_argument(
        "--management-ca",
        metavar="F",
        type=values.path,
        help="with --management: a PEM file with the CA of the relay's certificate, or with a self-signed "
        "certificate itself (default: the CAs of the system)",
    )
    others.add_argument(
        "--management-pin",
        metavar="PIN",
        type=values.pin,
        help="with --management: trust the certificate with this pin, which the relay logs (management.listening)",
    )


def add_years(
    parser: argparse.ArgumentParser, *, means: str = "how long the certificates in the files are valid"
) -> None:
    """Add ``--valid-years``."""
    parser.add_argument(
        "--valid-years",
        metavar="N",
        type=values.years,
        default=10.0,
        help=f"{means} (default: 10)",
    )


def add_rule(parser: argparse.ArgumentParser) -> None:
    """Add ``NAME`` and ``--rule``."""
    add_name(parser)
    parser.add_argument(
        "--rule", required=True, metavar="RULE", type=values.rule_name, help="connector, application, or another rule"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add ``--target``."""
    parser.add_argument(
        "--target",
        metavar="HOST:PORTS",
        type=values.target,
        required=True,
        help="what the connector connects to: a host name or address, and a port (IPv6 as [::1]:5432) or several "
        "ports and ranges (ftp.corp:21,50000-50100), followed by /udp or /tcp+udp if it receives datagrams; or a "
        "named instance of SQL Server (sql01\\SQLEXPRESS); or unix:/path",
    )


def add_local_name(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add ``--local-name``."""
    parser.add_argument(
        "--local-name",
        metavar="HOST:PORTS",
        type=values.local_name,
        help="the name and port, or ports, under which applications know the target; it is written into the "
        "application's connection string, is used on the application's machine only, and is not sent to the relay; "
        "none leaves it "
        f"out (default: {default})",
    )


def add_key(
    parser: argparse.ArgumentParser, *, required: bool = True, means: str = "which of the rule's two keys"
) -> None:
    """Add ``--key``."""
    parser.add_argument("--key", required=required, choices=("primary", "secondary"), help=means)


def add_endpoint(parser: argparse.ArgumentParser, *, means: str, required: bool = True) -> None:
    """Add ``--endpoint``, which is given once for each relay. `endpoints` is the list of its values."""
    parser.add_argument(
        "--endpoint",
        metavar="HOST",
        dest="endpoints",
        type=values.endpoint,
        action="append",
        required=required,
        help=means,
    )


def add_update(parser: argparse.ArgumentParser, *, means: str) -> None:
    """Add ``--update``, the files that are to be changed. The list may be empty."""
    parser.add_argument("--update", metavar="F", type=values.path, nargs="+", action="extend", default=[], help=means)


class MergePorts(argparse.Action):
    """Merges the ports of an option that may be repeated. If a port occurs several times, the last entry counts.

    With a configuration file, the file counts for each port that is not on the command line (`apply_config_file`).
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        """Add the ports in `value` to those that were given before."""
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **value})
