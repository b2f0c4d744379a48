"""Makes the dialer from the options about proxies, HTTP, and the command of mode ``exec``.

A command that does one thing uses `make_dialer`. A program whose options may change while it runs uses
`ChangingDialer`.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import attrs
import trio

from .._defaults import PROXY_PASSWORD_VARIABLE
from .._text_files import read_text, strip_value
from .._value import Value
from ..abc import Dialer
from ..connectivity import DIRECTLY
from ..connectivity.commands import Commands
from ..connectivity.proxies import ProxyDial, ProxySettings, resolve_dialer
from ..connectivity.proxies.settings import has_password
from ..errors import ConfigurationError
from ..http_options import NO_HTTP_OPTIONS, HttpOptions, check_header
from ..security import Secret
from .option_places import placed

logger = logging.getLogger("hybridrelay.cli")

#: The maximum size of a password file (bytes): enough for a password and a line break, even in UTF-16.
_MAX_PASSWORD_BYTES = 1024
#: The maximum size of a file with header fields (bytes), which is more than the fields in it may have.
_MAX_HEADERS_BYTES = 16 * 1024
#: The mode whose transport runs a command.
_EXEC = "exec"


def make_dialer(args: argparse.Namespace, commands: Commands | None = None) -> Dialer | None:
    """Return the dialer for the options; None without such options, which means that the environment decides.

    Args:
        args: the parsed arguments of a command with `add_how_reached`.
        commands: see `make_commands`.

    Raises:
        ConfigurationError: the options cannot be used. The message contains no secret.
    """
    proxies = _explicit_proxies(args)
    dialer = None if proxies is None else Dialer(ProxyDial(proxies))
    http = _http_options(args)
    if http != NO_HTTP_OPTIONS:
        dialer = attrs.evolve(resolve_dialer(dialer), http=http)
    if commands is None or args.exec_command is None:
        return dialer
    return attrs.evolve(resolve_dialer(dialer), process=commands.dial)


@attrs.frozen
class DialOptions(Value):
    """The options about proxies and HTTP, which may change while a program runs."""

    proxies: ProxySettings
    http: HttpOptions


def read_dial_options(args: argparse.Namespace, *, again: bool = False) -> DialOptions:
    """Read the options about proxies and HTTP, and the files that they name.

    Args:
        args: the parsed arguments of a command with `add_how_reached`.
        again: whether the program is already running, so that a pipe cannot be read again.

    Raises:
        ConfigurationError: the options cannot be used. The message contains no secret.
    """
    with placed(args, "proxy", "proxy_password_file"):
        proxies = _explicit_proxies(args, again=again)
    with placed(args, "websocket_headers_file", "websocket_path_prefix"):
        http = _http_options(args, again=again)
    return DialOptions(ProxySettings.from_environment() if proxies is None else proxies, http)


def dial_files(args: argparse.Namespace) -> list[Path]:
    """Return the files that `read_dial_options` reads."""
    return [file for file in (args.proxy_password_file, args.websocket_headers_file) if file is not None]


class ChangingDialer:
    """A dialer whose options may change while a program runs. Connections keep those with which they began.

    Args:
        options: the options at the start.
        commands: see `make_commands`.
    """

    def __init__(self, options: DialOptions, commands: Commands) -> None:
        self._options = options
        self._dial = ProxyDial(options.proxies)
        dialer = Dialer(self._dial, self._dial_udp, current_http=lambda: self._options.http)
        #: The dialer for connectors and clients.
        self.dialer = attrs.evolve(dialer, process=commands.dial) if commands.is_configured else dialer

    def use(self, options: DialOptions) -> tuple[str, ...]:
        """Use other options for connections that begin from now on. Returns what has changed."""
        before, self._options = self._options, options
        self._dial.settings = options.proxies
        parts = (
            ("proxy", before.proxies, options.proxies),
            ("path-prefix", before.http.path_prefix, options.http.path_prefix),
            ("header-fields", before.http.headers, options.http.headers),
        )
        return tuple(name for name, earlier, now in parts if earlier != now)

    async def _dial_udp(self, host: str, port: int) -> trio.socket.SocketType:
        # Proxies do not carry UDP.
        dial = DIRECTLY.udp if self._options.proxies.proxy is None else Dialer(self._dial).udp
        return await dial(host, port)


def make_commands(args: argparse.Namespace) -> Commands:
    """Return the object that runs the command of ``--exec-command``, if there is one.

    Raises:
        ConfigurationError: mode ``exec`` has no command, or another mode has one.
    """
    if (args.mode == _EXEC) != (args.exec_command is not None):
        raise ConfigurationError(
            "--mode exec needs --exec-command, and --exec-command needs --mode exec",
            remedy="give both: --mode exec --exec-command 'ssh HOST hybridrelay relay-stdio --state DIR'",
        )
    return Commands(args.exec_command)


def _http_options(args: argparse.Namespace, *, again: bool = False) -> HttpOptions:
    prefix: str = args.websocket_path_prefix or ""
    file: Path | None = args.websocket_headers_file
    if file is None:
        return HttpOptions(prefix)
    text = read_text(file, what="the file with header fields", limit=_MAX_HEADERS_BYTES, secret=True, regular=again)
    headers: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if not colon:
                raise ValueError("expected 'Name: value'")
            headers.append(check_header(name, value.strip(" \t")))
        except ValueError as exc:
            raise ConfigurationError(f"{file}, line {number}: {exc}", remedy="correct this line") from None
    if not headers:
        raise ConfigurationError(
            f"there are no header fields in {file}", remedy="write one 'Name: value' on each line"
        )
    try:
        return HttpOptions(prefix, tuple(headers))
    except ValueError as exc:
        raise ConfigurationError(f"{file}: {exc}", remedy="remove what is not needed") from None


def _explicit_proxies(args: argparse.Namespace, *, again: bool = False) -> ProxySettings | None:
    """Return the proxy of ``--proxy``; None without this option."""
    if args.proxy is None:
        if args.proxy_password_file is not None:
            raise ConfigurationError("--proxy-password-file needs --proxy", remedy="name the proxy with --proxy")
        return None
    if has_password(args.proxy):
        # The password is not repeated: the error may be written to a log.
        raise ConfigurationError(
            "--proxy has a password in it, which every user of this machine can see",
            remedy="change the password, and give the new one with --proxy-password-file or in "
            f"{PROXY_PASSWORD_VARIABLE}",
        )
    return ProxySettings.explicit(args.proxy, password=_password(args.proxy_password_file, args.proxy, again=again))


def _password(file: Path | None, url: str, *, again: bool) -> Secret | None:
    if file is None:
        text = os.environ.get(PROXY_PASSWORD_VARIABLE) if "@" in url else None
        return Secret(text.rstrip("\r\n")) if text else None
    what = "the proxy's password file"
    text = read_text(file, what=what, limit=_MAX_PASSWORD_BYTES, secret=True, regular=again).rstrip("\n")
    if not text or not text.isprintable():
        raise ConfigurationError(
            f"{file} does not contain exactly one line with a password", remedy="write the password as the only line"
        )
    if text != strip_value(text):
        # The characters may be part of the password. The warning is for users who did not intend them.
        logger.warning("the password in %s has spaces or quotes around it, which are used as part of it", file)
    return Secret(text)
