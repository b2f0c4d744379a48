"""``hybridrelay claims``: create, list, revoke, take."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from functools import partial

import attrs

from ..._printable import printable
from ...administration import (
    ClaimInfo,
    CreatedClaim,
    IdentityOnRequest,
    Registry,
    create_claim,
    prepare_claim,
    revoke_claim,
)
from ...administration.new_files import check_new_files, new_files
from ...errors import ConfigurationError
from ...relay.claims import ClaimState
from ...security import ConnectionString, Role, load_connection_string
from .. import exits, output
from ..claim_taking import read_claim_code, take_to_file
from ..moved_ports import warn_of_other_ports
from ..relay_access import describe_access, open_registry
from ..times import utc_text


def run_create(args: argparse.Namespace) -> int:
    """Seal a connection string, leave it at the relay, and show the code or write it to a file."""
    if args.json and args.qr:
        raise ConfigurationError("--json and --qr cannot be used together")
    if args.out is not None:
        check_new_files([args.out])
    draw = _qr_drawer() if args.qr else None
    with open_registry(args) as registry:
        now = time.time()
        content = _prepared(args, registry, now) if args.connection_string_file is None else _existing(args)
        created = create_claim(
            registry,
            args.name,
            content,
            host=args.endpoint,
            seconds=args.expires,
            note=args.note,
            now=now,
            before_change=args.signals.hold,
        )
        if args.authority_file is not None:
            warn_of_other_ports(registry, args.name, args.authority_file)
        if args.out is not None:
            try:
                with new_files({args.out: f"{created.code.reveal()}\n"}):
                    pass
            except BaseException:
                registry.revoke_claim(args.name, created.info.id)
                raise
    if args.json:
        output.say_json(_created_as_dict(created, content, shown=args.out is None))
    else:
        _tell(args, created, content)
    if draw is not None:
        output.say()
        output.say(draw(created.code.reveal()))
    return exits.OK


def _existing(args: argparse.Namespace) -> ConnectionString:
    for option in ("role", "label", "authority_file", "rule", "local_name", "with_private_key"):
        if getattr(args, option) not in (None, False):
            raise ConfigurationError(
                f"--{option.replace('_', '-')} and --connection-string-file cannot be used together",
                remedy="leave one of them out: the connection string in the file already has its identity",
            )
    return load_connection_string(args.connection_string_file)


def _prepared(args: argparse.Namespace, registry: Registry, now: float) -> ConnectionString | IdentityOnRequest:
    for option in ("role", "label", "authority_file"):
        if getattr(args, option) is None:
            raise ConfigurationError(
                f"--{option.replace('_', '-')} is missing",
                remedy="give --role, --label and --authority-file, with which a new connection string is issued, or "
                "--connection-string-file with an existing one",
            )
    return prepare_claim(
        args.name,
        Role(args.role),
        args.label,
        authority_path=args.authority_file,
        rule=args.rule,
        registry=registry,
        local_name=args.local_name,
        valid_years=args.valid_years,
        with_private_key=args.with_private_key,
        now=now,
    )


def _tell(args: argparse.Namespace, created: CreatedClaim, content: ConnectionString | IdentityOnRequest) -> None:
    until = utc_text(created.info.expires_at)
    output.say(f"created claim {created.info.id} at {created.endpoint.host}, which can be taken once until {until}")
    if args.out is not None:
        output.say(f"code file: {args.out}")
    else:
        output.say()
        output.say(created.code.reveal())
    output.say()
    output.say(
        "Anyone with the code can get the connection string: pass it on in a way that you trust. On the machine\n"
        "that needs the connection string, run 'hybridrelay claims take --out FILE'. If it says that the claim was\n"
        "taken before, somebody else has the connection string: see 'hybridrelay claims list "
        f"{args.name} {describe_access(args)}'."
    )
    if isinstance(content, IdentityOnRequest):
        output.say(
            "The claim contains no private key: that machine makes the key, and a connector with the issuer issues\n"
            "the identity. Such a connector has to be running at some time between the taking of the claim and its\n"
            "expiry."
        )


def _created_as_dict(
    created: CreatedClaim, content: ConnectionString | IdentityOnRequest, *, shown: bool
) -> dict[str, object]:
    code = {"code": created.code.reveal()} if shown else {}
    return {
        "id": created.info.id,
        "relay": created.endpoint.host,
        "expires_at": created.info.expires_at,
        "has_private_key": isinstance(content, ConnectionString),
        **code,
    }


def _qr_drawer() -> Callable[[str], str]:
    try:
        import segno
    except ImportError:
        raise ConfigurationError(
            "a QR code needs the package segno", remedy="install it: pip install 'hybridrelay[qr]'"
        ) from None

    def draw(text: str) -> str:
        # Capital letters, digits and a few other characters need less space in a QR code. The case does not matter.
        lines = io.StringIO()
        segno.make(text.upper(), error="l", micro=False).terminal(out=lines, compact=True)
        return lines.getvalue().rstrip("\n")

    return draw


def run_list(args: argparse.Namespace) -> int:
    """List the claims of a hybrid connection."""
    with open_registry(args) as registry:
        claims = registry.claims(args.name)
    if args.json:
        output.say_json([_as_dict(claim) for claim in claims])
    elif not claims:
        output.say(f"There are no claims of {args.name}. To create one: hybridrelay claims create --help")
    else:
        output.say(output.table(("ID", "STATE", "NOTE", "CREATED", "WHAT HAPPENED"), [_row(one) for one in claims]))
        if any(claim.taken_again for claim in claims):
            output.say()
            output.say(
                "ALARM means that two parties had the code of a claim, and it is not known which of them has the\n"
                "connection string: regenerate the key of its rule, deny its identity at the connector, and create\n"
                "another claim."
            )
    return exits.OK


def _row(claim: ClaimInfo) -> tuple[str, ...]:
    match claim.state:
        case ClaimState.TAKEN:
            happened = f"taken {utc_text(claim.taken_at or 0)} from {claim.taken_by}"
        case ClaimState.REVOKED:
            happened = f"revoked {utc_text(claim.revoked_at or 0)}"
        case ClaimState.EXPIRED:
            happened = f"expired {utc_text(claim.expires_at)}"
        case ClaimState.OPEN:
            happened = f"can be taken until {utc_text(claim.expires_at)}"
    if claim.taken_again:
        last = f"{utc_text(claim.taken_again_at or 0)} from {claim.taken_again_by}"
        happened += f"; ALARM: asked for again ({claim.taken_again}), last {last}"
    return claim.id, claim.state, claim.note, utc_text(claim.created_at), happened


def _as_dict(claim: ClaimInfo) -> dict[str, object]:
    """Convert for JSON output. Times are seconds since 1970. Later versions may add members, but remove none."""
    return {**attrs.asdict(claim), "state": claim.state.value}


def run_revoke(args: argparse.Namespace) -> int:
    """Revoke a claim."""
    with open_registry(args) as registry:
        before = revoke_claim(registry, args.name, args.which, before_change=args.signals.hold)
    if before.state is ClaimState.OPEN:
        output.say(f"revoked claim {before.id}: its content was deleted")
        return exits.OK
    output.say(f"claim {before.id} cannot be revoked: {_row(before)[-1]}")
    return exits.FAILED


def run_take(args: argparse.Namespace) -> int:
    """Take a claim, and write its connection string."""
    string = take_to_file(partial(read_claim_code, args.code_file), args.out, args)
    identity, _ = string.require_identity()
    name = identity.details.name
    output.say(
        f"wrote {args.out}: the connection string of the {name.role} {printable(name.label)} of "
        f"{name.connection_name}"
    )
    return exits.OK
