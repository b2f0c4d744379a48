"""Takes claims for commands: reads the code, gets the content from the relay, and writes a connection string.

The content is a connection string, or what is needed to ask a connector for an identity. In the second case, the
private key is made here. What the relay has delivered is first written to a file of its own (`pending_file`), because
the relay has deleted it: if no connector answers, the same command continues from there, and needs no code.

The relay delivers a claim once. If its answer does not arrive, or the program is killed before it has written the
file, the program asks again, perhaps after a restart, and the relay should not take it for a thief. So before it
asks, the program writes a random number, its *attempt*, to a file beside the one that is to be written. It states
this number each time, and deletes the file in the end.

A program that was killed leaves one of these two files, and the next one goes on from there (`_clean_up`).
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from .._defaults import CLAIM_CODE_VARIABLE
from .._replace_file import create_file, remove_leftovers
from .._text_files import decode_text, read_stream, read_text
from ..abc import Dialer
from ..administration.new_files import check_new_files, new_files
from ..client import ClientConfig, open_client, request_identity
from ..connectivity.backoff import Backoff
from ..connectivity.claims import new_attempt, take_claim
from ..errors import (
    AuthorizationError,
    ConfigurationError,
    HybridRelayError,
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
)
from ..events.claims import ClaimKept, ClaimWaiting
from ..events.plain_log import plainly_logged_events
from ..protocol.control import CLAIM_ATTEMPT_SIZE
from ..protocol.reasons import Duration, Reason
from ..security import (
    ClaimCode,
    ClaimContent,
    ClaimKeys,
    ConnectionString,
    PendingClaim,
    parse_claim_code_untrusted,
)
from ..security.claim_code import MAX_CLAIM_CODE
from ..security.loading import load_connection_string, naming
from ..security.pending_claim import MAX_PENDING_CLAIM
from . import exits
from .proxies import make_commands, make_dialer
from .running import run_until_stopped
from .times import utc_text

__all__ = ["pending_file", "read_claim_code", "take_at_first_start", "take_to_file"]

#: UTF-16 takes two bytes for each character.
_MAX_BYTES = 2 * MAX_CLAIM_CODE + 4
_MAX_ATTEMPT = 1024
_ATTEMPT = re.compile(rf"[0-9a-f]{{{2 * CLAIM_ATTEMPT_SIZE}}}", re.ASCII)
#: While a relay or a connector cannot be reached: the longest pause between two attempts (seconds).
_MAX_PAUSE_SECONDS = 30.0
#: Refusals that another connector, or the same one at another time, might not give.
_OTHERS_MAY_ISSUE = frozenset({Reason.KIND_NOT_OFFERED, Reason.ISSUE_REFUSED, Reason.AUDIT_UNAVAILABLE})
#: Refusals after which what is in the pending file can never be used any more.
_USELESS_AFTER = frozenset({Reason.CLAIM_USED})


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


def pending_file(out: Path) -> Path:
    """Return the file for a claim that was taken, and whose identity has not been issued yet.

    Args:
        out: the file for the connection string.
    """
    return out.with_name(f"{out.name}.claim")


def take_at_first_start(args: argparse.Namespace) -> None:
    """Take the claim of ``--claim-file`` if the file of ``--connection-string-file`` does not exist yet.

    Until a signal stops the program, it tries again after every failure that may be temporary: a relay cannot be
    reached or is being restarted, something else answers in its place, the hybrid connection is disabled, no
    connector issues the identity, or the one that was asked is lost before it has answered.

    Args:
        args: the parsed arguments of connector or forward.

    Raises:
        ConfigurationError: the options do not fit together, or the code or the file cannot be used.
        AuthorizationError: the relay refuses.
        HybridRelayError: the connector refuses; the message names the pending file.
        OSError: see `take_to_file`.
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
    _clean_up(out)
    if out.exists():
        return
    string = take_to_file(partial(read_claim_code, args.claim_file), out, args, patient=True)
    plainly_logged_events().publish(ClaimKept(connection=string.entity_path, file=str(out)))


def take_to_file(
    read_code: Callable[[], ClaimCode], out: Path, args: argparse.Namespace, *, patient: bool = False
) -> ConnectionString:
    """Take a claim, and write its connection string to a new file of mode 0600.

    Whether the file can be written is checked before, because the relay delivers the content only once. If an earlier
    process was killed, this goes on from where it was.

    Args:
        read_code: reads the code of the claim. Not called if there is a pending file.
        out: the new file.
        args: the parsed arguments, with the options of `add_how_reached`.
        patient: whether to try again for as long as the relay cannot be reached, something else answers in its place,
            or no connector issues the identity.

    Raises:
        ConfigurationError, AuthorizationError, RelayIdentityError, RelayUnreachable: see `take_claim`.
        HybridRelayError: the identity was not issued. The message names the pending file.
        OSError: a file could not be written, and the content is lost; or the attempt could not be stored, and the
            relay was not asked; or the connection string could not be written, and the pending file is still there.
        SystemExit: a signal has stopped the program before the connection string was written.
    """
    _clean_up(out)
    check_new_files([out])
    pending = pending_file(out)
    waits = pending.exists()
    if not waits:
        check_new_files([pending])
    code = None if waits else read_code()
    commands = make_commands(args)
    dialer = make_dialer(args, commands)
    kept: list[ConnectionString] = []

    def keep(content: ClaimContent | ConnectionString) -> None:
        if isinstance(content, ConnectionString):
            with new_files({out: content.format() + "\n"}):
                kept.append(content)
        else:
            assert code is not None
            text = PendingClaim.begin(ClaimKeys.of(code), content).format()
            with new_files({pending: text}):
                pass

    attempt = _Attempt(out)

    async def main() -> None:
        async with commands:
            if code is not None:
                await _take(code, keep, attempt, args.mode, dialer, patient=patient)
            if kept:
                return
            claim = _read_pending(pending)
            config = ClientConfig(claim.claiming, mode=args.mode, dialer=dialer)
            keep(await _complete(claim, config, pending, patient=patient))
            pending.unlink()
            attempt.forget()

    # A service that starts does not end at SIGHUP: it remembers the request, and reloads when it serves.
    stopped_by = run_until_stopped(main, reloads=trio.sleep_forever if patient else None)
    if not kept:
        assert stopped_by is not None
        raise SystemExit(exits.SIGNAL + stopped_by)
    return kept[0]


def _clean_up(out: Path) -> None:
    """Remove what a process that was killed while it took a claim has left, except what the next one needs.

    Temporary files and the pending file have private keys. An empty file is left on a file system without hard links.

    Args:
        out: the file for the connection string.

    Raises:
        OSError: something cannot be removed.
    """
    pending, attempt = pending_file(out), _Attempt(out)
    if not (pending.exists() or attempt.exists()):
        return
    for path in (out, pending):
        remove_leftovers(path)
        if _is_empty(path):
            path.unlink()
    string = _string_in(out)
    if string is not None and not _is_needed(pending, string):
        pending.unlink(missing_ok=True)
        attempt.forget()


def _is_empty(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _string_in(path: Path) -> ConnectionString | None:
    if not path.exists():
        return None
    try:
        return load_connection_string(path, regular=True)
    except ConfigurationError:
        return None  # whatever it is, somebody else has written it


def _is_needed(pending: Path, string: ConnectionString) -> bool:
    """Return whether the claim in the pending file was not completed: `string` does not have its private key, so
    somebody else has written it."""
    if not pending.exists():
        return False
    try:
        claim = _read_pending(pending)
    except HybridRelayError:
        return True  # whatever it is, it is not what `string` was made from
    return string.identity is None or string.identity.private_key != claim.private_key


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

    def exists(self) -> bool:
        """Return whether there is such a file, so that an earlier attempt was not finished."""
        return self._path.exists()

    def forget(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


async def _take(
    code: ClaimCode,
    keep: Callable[[ClaimContent], None],
    attempt: _Attempt,
    mode: str,
    dialer: Dialer | None,
    *,
    patient: bool,
) -> None:
    waiting = _Waiting(code.endpoint.host, patient=patient)
    while True:
        try:
            await take_claim(code, keep, attempt=attempt.get, mode=mode, dialer=dialer)
        except (AuthorizationError, RelayIdentityError, RelayUnreachable) as exc:
            if not _may_pass(exc):
                # If the claim was lost, keep the number of the attempt: at the next start, the relay would take a
                # program with another number for a second taker.
                if exc.reason is not Reason.CLAIM_LOST:
                    attempt.forget()
                raise
            await waiting.after(exc)
        else:
            attempt.forget()
            return


async def _complete(claim: PendingClaim, config: ClientConfig, pending: Path, *, patient: bool) -> ConnectionString:
    """Ask a connector for the identity of a claim, and return the complete connection string."""
    waiting = _Waiting(claim.string.hosts[0], patient=patient)
    until = utc_text(claim.details.not_after)
    while True:
        error: HybridRelayError
        try:
            async with open_client(config) as client:
                issued = await request_identity(client, claim.private_key)
        except HybridRelayError as exc:
            error, passes = exc, _may_pass(exc)
        else:
            try:
                return claim.complete(issued, now=time.time())
            except ConfigurationError as exc:
                error, passes = exc, True  # another connector may issue one that can be used
        told = _not_complete(error, pending, until)
        if not passes:
            raise told from error
        await waiting.after(told)


def _may_pass(error: HybridRelayError) -> bool:
    """Return whether another attempt may succeed, although nobody has changed anything here."""
    if isinstance(error, RelayUnreachable | RendezvousError):
        return True
    if isinstance(error, ConfigurationError):
        return False
    return error.reason.duration is Duration.PASSING or error.reason in _OTHERS_MAY_ISSUE


def _not_complete(error: HybridRelayError, pending: Path, until: str) -> HybridRelayError:
    if error.reason in _USELESS_AFTER:
        kept = f"{pending} is no longer needed: remove it"
        remedy = error.remedy
    else:
        kept = f"what the relay has delivered is kept in {pending}, and can be used until {until}"
        again = "run the same command again, which no longer needs the code"
        if error.reason is Reason.NO_LISTENER:
            remedy = f"start the connector of the hybrid connection, then {again}"
        else:
            remedy = f"{error.remedy}; then {again}" if error.remedy else again
    return HybridRelayError(f"{error}; {kept}", reason=error.reason, remedy=remedy)


class _Waiting:
    """Waits between attempts, and says so once for each reason."""

    def __init__(self, host: str, *, patient: bool) -> None:
        self._host = host
        self._patient = patient
        self._backoff = Backoff(max_seconds=_MAX_PAUSE_SECONDS)
        self._said: Reason | None = None

    async def after(self, error: HybridRelayError) -> None:
        """Wait after an attempt that has failed, or raise its error."""
        if not self._patient:
            raise error
        if error.reason is not self._said:
            self._said = error.reason
            event = ClaimWaiting(host=self._host, detail=str(error), remedy=error.remedy or "")
            plainly_logged_events().publish(event)
        await trio.sleep(self._backoff.next_wait())


def _read_pending(path: Path) -> PendingClaim:
    text = read_text(path, what="the claim that was taken", limit=MAX_PENDING_CLAIM, secret=True, regular=True)
    with naming(path):
        return PendingClaim.parse_untrusted(text)
