"""Takes claims for commands: reads the code, gets the connection string from the relay, and writes it to a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from .._defaults import CLAIM_CODE_VARIABLE
from .._text_files import decode_text, read_stream, read_text
from ..abc import Dialer
from ..administration.new_files import check_new_files, new_files
from ..connectivity.backoff import Backoff
from ..connectivity.claims import take_claim
from ..errors import ConfigurationError, RelayUnreachable
from ..events.claims import ClaimKept, ClaimWaiting
from ..events.plain_log import plainly_logged_events
from ..security import ClaimCode, ConnectionString, parse_claim_code_untrusted
from ..security.claim_code import MAX_CLAIM_CODE
from ..security.loading import naming
from . import exits
from .proxies import make_commands, make_dialer
from .running import run_until_stopped

__all__ = ["read_claim_code", "take_at_first_start", "take_to_file"]

#: UTF-16 takes two bytes for each character.
_MAX_BYTES = 2 * MAX_CLAIM_CODE + 4
#: While a relay cannot be reached: the longest pause between two attempts (seconds).
_MAX_PAUSE_SECONDS = 30.0


def read_claim_code(file: str | None) -> ClaimCode:
    """Read the code of a claim.

    Args:
        file: a path, or - for standard input; None means the environment, or else standard input.

    Raises:
        ConfigurationError: it cannot be read.
        ClaimError: it is not a code. The message names the source, and does not repeat the content.
    """
    from_environment = os.environ.get(CLAIM_CODE_VARIABLE)
    if file is None and from_environment:
        source, text = f"the environment variable {CLAIM_CODE_VARIABLE}", from_environment
    elif file in (None, "-"):
        source, text = "standard input", _read_standard_input()
    else:
        assert file is not None
        source, text = file, read_text(file, what="the file with the claim code", limit=_MAX_BYTES, secret=True)
    with naming(source):
        return parse_claim_code_untrusted(text)


def _read_standard_input() -> str:
    if not sys.stdin.isatty():
        return read_stream(sys.stdin.buffer, source="standard input", limit=_MAX_BYTES)
    sys.stderr.write("Type or paste the claim code, then press Enter: ")
    sys.stderr.flush()
    return decode_text(sys.stdin.buffer.readline(_MAX_BYTES + 1), source="standard input", limit=_MAX_BYTES)


def take_at_first_start(args: argparse.Namespace) -> None:
    """Take the claim of ``--claim-file`` if the file of ``--connection-string-file`` does not exist yet.

    A relay that cannot be reached is retried until it can, or a signal stops the program.

    Args:
        args: the parsed arguments of connector or forward.

    Raises:
        ConfigurationError: the options do not fit together, or the code or the file cannot be used.
        AuthorizationError: the relay refuses.
        SystemExit: a signal has stopped the program.
    """
    if args.claim_file is None:
        return
    if len(args.files) != 1 or args.files[0] == "-":
        raise ConfigurationError(
            "--claim-file needs exactly one --connection-string-file",
            remedy="name the file that is to be written when the claim is taken, and read from then on",
        )
    out = Path(args.files[0])
    if out.exists():
        return
    code = read_claim_code(args.claim_file)
    string = take_to_file(code, out, args, patient=True)
    plainly_logged_events().publish(ClaimKept(connection=string.entity_path, file=str(out)))


def take_to_file(code: ClaimCode, out: Path, args: argparse.Namespace, *, patient: bool = False) -> ConnectionString:
    """Take a claim, and write its connection string to a new file of mode 0600.

    Whether the file can be written is checked before, because the relay delivers the content only once.

    Args:
        code: the code of the claim.
        out: the new file.
        args: the parsed arguments, with the options of `add_mode`, `add_exec_command`, `add_proxy` and `add_http`.
        patient: whether to try again for as long as the relay cannot be reached.

    Raises:
        ConfigurationError, AuthorizationError, RelayUnreachable: see `take_claim`.
        OSError: the file could not be written. The content is lost.
        SystemExit: a signal has stopped the program before the claim was taken.
    """
    check_new_files([out])
    commands = make_commands(args)
    dialer = make_dialer(args, commands)
    kept: list[ConnectionString] = []

    def keep(string: ConnectionString) -> None:
        with new_files({out: string.format() + "\n"}):
            kept.append(string)

    async def main() -> None:
        async with commands:
            await _take(code, keep, args.mode, dialer, patient=patient)

    stopped_by = run_until_stopped(main)
    if not kept:
        assert stopped_by is not None
        raise SystemExit(exits.SIGNAL + stopped_by)
    return kept[0]


async def _take(
    code: ClaimCode, keep: Callable[[ConnectionString], None], mode: str, dialer: Dialer | None, *, patient: bool
) -> None:
    backoff = Backoff(max_seconds=_MAX_PAUSE_SECONDS)
    said = False
    while True:
        try:
            await take_claim(code, keep, mode=mode, dialer=dialer)
        except RelayUnreachable as exc:
            if not patient:
                raise
            if not said:
                host = code.endpoint.host
                event = ClaimWaiting(host=host, detail=str(exc), remedy=exc.remedy or "")
                plainly_logged_events().publish(event)
                said = True
            await trio.sleep(backoff.next_wait())
        else:
            return
