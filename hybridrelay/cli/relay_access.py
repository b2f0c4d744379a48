"""Gives commands access to the relay that they administer, through its state directory or its management API.

With ``--state``, if a relay is running with the directory, the command sends requests to it, so that the relay checks
and audits them. If nothing is listening on the management socket, the command uses the store directly, which is safe
at any time. If a relay is listening and answers with an error, the command fails: it does not fall back to the store.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._defaults import MANAGEMENT_TOKEN_FILE_VARIABLE
from .._text_files import read_stream, read_text, strip_value
from ..errors import ConfigurationError
from ..relay.store.state_dir import MANAGEMENT_SOCKET, local_socket
from ..security import ManagementUrl, Secret, management_authorization
from ..security.loading import naming

if TYPE_CHECKING:  # each command imports what it needs when it runs
    from ..administration import Registry
    from ..management import Address, BlockingClient

__all__ = [
    "address_of",
    "check_alternatives",
    "describe_access",
    "open_client",
    "open_registry",
    "refuse_management_options",
]

_MAX_TOKEN_FILE = 64 * 1024


@contextmanager
def open_client(args: argparse.Namespace) -> Iterator[BlockingClient | None]:
    """Open a client of the management API of the relay that ``--state`` or ``--management`` names.

    Yields:
        The client; None if no relay listens on the socket in the state directory.

    Raises:
        ConfigurationError: the options do not match, or the token cannot be used.
        ManagementError: something is listening on the relay's socket, but this user may not connect to it.
        OSError: no thread can be started, or the system has no descriptors for a loop.
    """
    if args.management is None:
        _check_management_options(args)
        if not os.path.lexists(local_socket(args.state, MANAGEMENT_SOCKET)):
            yield None
            return
    from ..management import ManagementClient, blocking_client  # imported here because they are slow to import

    with blocking_client(ManagementClient(address_of(args))) as client:
        if args.management is not None or client.run(ManagementClient.connect_if_it_runs):
            yield client
            return
    yield None


@contextmanager
def open_registry(args: argparse.Namespace, *, create: bool = False) -> Iterator[Registry]:
    """Open the registry of the relay that ``--state`` or ``--management`` names.

    Args:
        args: the command's arguments; see `hybridrelay.cli.arguments.options.add_relay`.
        create: whether a missing state directory is created; see `StoreRegistry`.

    Raises:
        ConfigurationError: the options do not match, or the token or the state directory cannot be used.
        ManagementError: see `open_client`.
    """
    with open_client(args) as client:
        if client is not None:
            from ..management import ApiRegistry

            yield ApiRegistry(client)
            return
        from ..administration import StoreRegistry
        from ..management.audited_registry import AuditedRegistry

        with StoreRegistry(state_dir=args.state, create=create) as registry:
            yield AuditedRegistry(registry, args.state)


def check_alternatives(args: argparse.Namespace, *options: str, required: bool = False) -> None:
    """Check that at most one, or exactly one, of these options is given.

    Args:
        args: the command's arguments.
        options: the names of the options in `args`.
        required: whether exactly one has to be given.

    Raises:
        ConfigurationError: several are given; or none, although one is required.
    """
    names = [f"--{option.replace('_', '-')}" for option in options]
    given = [name for name, option in zip(names, options, strict=True) if getattr(args, option) is not None]
    if len(given) > 1:
        raise ConfigurationError(f"{given[0]} and {given[1]} cannot be used together", remedy="give one of them")
    if required and not given:
        raise ConfigurationError(f"one of {', '.join(names)} is needed", remedy="see --help, which describes them")


def address_of(args: argparse.Namespace) -> Address:
    """Return the address of the management API that ``--state`` or ``--management`` names.

    Raises:
        ConfigurationError: the options do not match, or the token cannot be read.
    """
    from ..management import LocalAddress, UrlAddress

    if args.management is None:
        _check_management_options(args)
        return LocalAddress(args.state)
    url: ManagementUrl = args.management
    check_alternatives(args, "management_ca", "management_pin")
    if not url.uses_tls and (args.management_ca is not None or args.management_pin is not None):
        raise ConfigurationError("an http:// URL has no certificate to verify", remedy="give an https:// URL")
    return UrlAddress(url=url, authorization=_read_token(args), pin=args.management_pin, ca_file=args.management_ca)


def _check_management_options(args: argparse.Namespace) -> None:
    refuse_management_options(args, "--state", remedy="a local relay recognizes its owner")


def refuse_management_options(args: argparse.Namespace, given: str, *, remedy: str) -> None:
    """Check that no option is given that applies only to ``--management``.

    Args:
        args: the command's arguments.
        given: the option that was given instead of ``--management``.
        remedy: why `given` needs no such option.

    Raises:
        ConfigurationError: there is such an option.
    """
    for option in ("token_file", "management_ca", "management_pin"):
        if getattr(args, option) is not None:
            raise ConfigurationError(
                f"--{option.replace('_', '-')} can only be used with --management, and not with {given}",
                remedy=f"leave it out: {remedy}; or give --management URL",
            )


def describe_access(args: argparse.Namespace) -> str:
    """Return the options that name the relay, for a command line in a message."""
    if args.management is None:
        return f"--state {args.state}"
    token_file = "" if args.token_file is None else f" --token-file {args.token_file}"
    return f"--management {args.management}{token_file}"


def _read_token(args: argparse.Namespace) -> Secret:
    file = args.token_file or os.environ.get(MANAGEMENT_TOKEN_FILE_VARIABLE)
    if not file:
        raise ConfigurationError(
            "--management needs a token",
            remedy=f"give --token-file F (- for standard input), or set {MANAGEMENT_TOKEN_FILE_VARIABLE} to the name "
            "of the file; an administrator of the relay creates tokens with: hybridrelay tokens create",
        )
    if file == "-":
        source, text = "standard input", read_stream(sys.stdin.buffer, source="standard input", limit=_MAX_TOKEN_FILE)
    else:
        source, text = file, read_text(file, what="the token file", limit=_MAX_TOKEN_FILE, secret=True)
    with naming(source):
        try:
            return management_authorization(strip_value(text))
        except ValueError as exc:
            raise ConfigurationError(
                str(exc), remedy="give the file that 'tokens create --out' has written"
            ) from None
