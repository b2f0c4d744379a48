"""``hybridrelay audit verify``, ``key``, ``show`` and ``export``: the tamper-evident files of an audit log."""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..._text_files import read_text
from ...audit.chain import Checkpoint, time_text
from ...audit.export import to_cef, to_ocsf
from ...audit.reading import (
    RecordFilter,
    log_id,
    newest_key,
    newest_name,
    parse_keys,
    parse_witness,
    read_records,
    verify_directory,
)
from ...audit.verification import BadLine, Verdict
from ...errors import ConfigurationError
from ...events.plain_log import fields_text
from .. import exits, output

T = TypeVar("T")

#: The value of ``--witness`` that means the relay of ``--state`` or ``--management``.
_RELAY = Path("relay")
#: The largest file with keys, and with what other sinks have kept (bytes).
_MAX_KEYS, _MAX_WITNESS = 64 * 1024, 256 << 20
#: Why files were deleted, by the reason in the records about it.
_REASONS = {"age": "they were old", "size": "the directory had reached its maximum size"}
#: Fields that a table has in columns of their own, or not at all.
_COLUMNS = ("seq", "prev", "at", "event", "connection", "label", "target")


def run_verify(args: argparse.Namespace) -> int:
    """Check audit files."""
    trusted = _parsed(args.key, parse_keys, "the file with public keys", _MAX_KEYS)
    files = [one for one in args.witness if one != _RELAY]
    try:
        witnessed = [*_parsed(files, parse_witness, "the witness", _MAX_WITNESS), *_of_relay(args)]
        verdict = verify_directory(args.directory, trusted, witnessed)
    except BadLine as bad:
        if args.json:
            output.say_json({"ok": False, "file": bad.file, "line": bad.line, "problem": bad.problem})
        else:
            output.say(f"NOT OK: {args.directory / bad.file}, line {bad.line}: {bad.problem}")
        return exits.NOT_AUTHENTIC
    if args.json:
        output.say_json({"ok": True, **_verdict_json(verdict)})
    else:
        _say_verdict(verdict, has_keys=bool(trusted))
    return exits.OK


def _of_relay(args: argparse.Namespace) -> list[Checkpoint]:
    """Return the checkpoints that a relay keeps of this log, if ``--witness relay`` asks for them."""
    has_relay = args.state is not None or args.management is not None
    if _RELAY not in args.witness:
        if has_relay:
            raise ConfigurationError("the options for a relay need --witness relay", remedy="add --witness relay")
        return []
    if not has_relay:
        raise ConfigurationError(
            "--witness relay needs the relay: --state or --management",
            remedy="add one of them; for a file with the name relay, give --witness ./relay",
        )
    from .audit_checkpoints import read_checkpoints, witness_of  # imported here, because it is slow to import

    log = log_id(args.directory)
    found = witness_of(read_checkpoints(args, log=log))
    if not found:
        raise BadLine(
            newest_name(args.directory),
            1,
            f"the relay keeps no checkpoint of this log ({log}): it is another log, or the relay was not its witness",
        )
    return found


def run_key(args: argparse.Namespace) -> int:
    """Show the public key of the newest file."""
    output.say(str(newest_key(args.directory)))
    return exits.OK


def run_show(args: argparse.Namespace) -> int:
    """Show records."""
    found: Iterable[dict[str, Any]] = deque(read_records(args.directory, _filter(args)), maxlen=args.limit)
    if args.json:
        for record in found:
            output.say(_json(record))
    elif not found:
        output.say("no records match")
    else:
        header = ("RECORD", "TIME", "EVENT", "CONNECTION", "LABEL", "TARGET", "ABOUT")
        output.say(output.table(header, map(_row, found), right=frozenset({0})))
    return exits.OK


def run_export(args: argparse.Namespace) -> int:
    """Write records in a format of other systems."""
    convert: dict[str, Callable[[dict[str, Any]], str]] = {
        "jsonl": _json,
        "ocsf": lambda record: _json(to_ocsf(record)),
        "cef": to_cef,
    }
    for record in read_records(args.directory, _filter(args)):
        output.say(convert[args.format](record))
        if output.is_lost():
            break
    return exits.OK


def _parsed(paths: Iterable[Path], parse: Callable[[str], list[T]], what: str, limit: int) -> list[T]:
    found: list[T] = []
    for path in paths:
        try:
            found += parse(read_text(path, what=what, limit=limit))
        except ValueError as exc:
            raise ConfigurationError(f"{path} cannot be used: {exc}") from None
    return found


def _filter(args: argparse.Namespace) -> RecordFilter:
    return RecordFilter(
        since="" if args.since is None else time_text(args.since),
        until="" if args.until is None else time_text(args.until),
        label=args.label,
        target=args.target,
        connection=args.connection or "",
        event=args.event,
    )


def _say_verdict(verdict: Verdict, *, has_keys: bool) -> None:
    # The line with the last signature is not counted.
    unsigned = verdict.end.seq - verdict.signed_up_to - (1 if verdict.signed_up_to else 0)
    output.say(
        f"OK: records {verdict.files[0].first} to {verdict.end.seq} in {len(verdict.files)} "
        f"file{'' if len(verdict.files) == 1 else 's'}, from {verdict.begun_at} to {verdict.ended_at}"
    )
    output.say(
        f"signed up to record {verdict.signed_up_to}" + (f"; {unsigned} later ones are not yet" if unsigned else "")
    )
    if verdict.witnessed_up_to:
        output.say(f"witnessed up to record {verdict.witnessed_up_to}")
    output.say(f"last record: {verdict.end.seq}, hash {verdict.end.head}")
    if verdict.deleted:
        reasons = " and ".join(_REASONS.get(reason, reason) for reason in verdict.deleted_for)
        output.say(
            f"records 1 to {verdict.deleted} were deleted by the log itself ({reasons}), as signed records say"
        )
    if not has_keys:
        output.say("it was not checked whose key has signed these files: give the public key with --key")
    for note in verdict.notes:
        output.say(f"note: {note}")


def _verdict_json(verdict: Verdict) -> dict[str, object]:
    return {
        "files": [
            {"name": file.name, "first": file.first, "last": file.last, "key": str(file.key)}
            for file in verdict.files
        ],
        "log": verdict.log_id,
        "last": verdict.end.seq,
        "head": verdict.end.head,
        "begunAt": verdict.begun_at,
        "endedAt": verdict.ended_at,
        "signedUpTo": verdict.signed_up_to,
        "isTrusted": verdict.is_trusted,
        "deleted": verdict.deleted,
        "deletedFor": list(verdict.deleted_for),
        "witnessedUpTo": verdict.witnessed_up_to,
        "notes": list(verdict.notes),
    }


def _json(record: Mapping[str, Any]) -> str:
    return msgspec.json.encode(record).decode()


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    about = {name: _plain(value) for name, value in _about(record).items() if name not in _COLUMNS}
    columns = (str(record.get(name, "")) for name in ("seq", "at", "event", "connection", "label", "target"))
    return tuple(itertools.chain(map(_shown, columns), [fields_text(about)]))


def _about(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a record for people. If the record is a signature, these are what it covers."""
    covers = record.get("covers")
    if record.get("event") not in ("log.checkpoint", "log.continued") or not isinstance(covers, dict):
        return record
    shown = {"signed_up_to": covers.get("seq"), "hash": covers.get("head")}
    return {**shown, **{name: value for name, value in record.items() if name not in ("covers", "sig")}}


def _plain(value: object) -> str | int | float | bool | list[str]:
    if isinstance(value, list):
        return [str(one) for one in value]
    return value if isinstance(value, str | int | float | bool) else str(value)


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)
