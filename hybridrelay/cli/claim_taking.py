"""Takes claims for commands: reads the code, gets the connection string from the relay, and writes it to a file.

The relay delivers a claim once. If its answer does not arrive, or the program is killed before it has written the
file, the program asks again, perhaps after a restart, and the relay should not take it for a thief. So before it
asks, the program writes a random number, its *attempt*, to a file beside the one that is to be written. It states
this number each time, and deletes the file in the end.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from .._defaults import CLAIM_CODE_VARIABLE
from .._replace_file import create_file
from .._text_files import decode_text, read_stream, read_text
from ..abc import Dialer
from ..administration.new_files import check_new_files, new_files
from ..connectivity.backoff import Backoff
from ..connectivity.claims import new_attempt, take_claim
from ..errors import AuthorizationError, ConfigurationError, RelayUnreachable
from ..events.claims import ClaimKept, ClaimWaiting
from ..events.plain_log import plainly_logged_events
from ..protocol.control import CLAIM_ATTEMPT_SIZE
from ..protocol.reasons import Reason
from ..security import ClaimCode, ConnectionString, parse_claim_code_untrusted
from ..security.claim_code import MAX_CLAIM_CODE
from ..security.loading import naming
from . import exits
from .proxies import make_commands, make_dialer
from .running import run_until_stopped

__all__ = ["read_claim_code", "take_at_first_start", "take_to_file"]

#: UTF-16 takes two bytes for each character.
_MAX_BYTES = 2 * MAX_CLAIM_CODE + 4
_MAX_ATTEMPT = 1024
_ATTEMPT = re.compile(rf"[0-9a-f]{{{2 * CLAIM_ATTEMPT_SIZE}}}", re.ASCII)
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
        OSError: the file could not be written, and the content is lost; or the attempt could not be stored, and the
            relay was not asked.
        SystemExit: a signal has stopped the program before the claim was taken.
    """
    check_new_files([out])
    commands = make_commands(args)
    dialer = make_dialer(args, commands)
    kept: list[ConnectionString] = []

    def keep(string: ConnectionString) -> None:
        with new_files({out: string.format() + "\n"}):
            kept.append(string)

    attempt = _Attempt(out)

    async def main() -> None:
        async with commands:
            await _take(code, keep, attempt, args.mode, dialer, patient=patient)

    stopped_by = run_until_stopped(main)
    if not kept:
        assert stopped_by is not None
        raise SystemExit(exits.SIGNAL + stopped_by)
    return kept[0]


class _Attempt:
    """The random number by which the relay recognizes this taker, and its file.

    Args:
        out: the file that is to be written.
    """

    def __init__(self, out: Path) -> None:
        self._path = out.with_name(f".{out.name}.attempt")

    def get(self) -> str:
        """Return the number that an earlier attempt has left, or else a new one, which is stored.

        Raises:
            ConfigurationError, OSError: the file cannot be read or written.
        """
        try:
            found = read_text(self._path, what="the file of the attempt", limit=_MAX_ATTEMPT, regular=True).strip()
        except ConfigurationError:
            if os.path.lexists(self._path):
                raise
        else:
            if _ATTEMPT.fullmatch(found):
                return found
            self._path.unlink()  # the disk was full, for example
        new = new_attempt()
        create_file(self._path, f"{new}\n".encode())
        return new

    def forget(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


async def _take(
    code: ClaimCode,
    keep: Callable[[ConnectionString], None],
    attempt: _Attempt,
    mode: str,
    dialer: Dialer | None,
    *,
    patient: bool,
) -> None:
    backoff = Backoff(max_seconds=_MAX_PAUSE_SECONDS)
    said = False
    while True:
        try:
            await take_claim(code, keep, attempt=attempt.get, mode=mode, dialer=dialer)
        except AuthorizationError as exc:
            if exc.reason is not Reason.CLAIM_LOST:  # then the relay would raise the alarm at the next start
                attempt.forget()
            raise
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
            attempt.forget()
            return
