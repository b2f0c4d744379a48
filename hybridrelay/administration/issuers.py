"""Giving a hybrid connection an issuer, or a new one. Only files contain it, so no relay is involved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from ..errors import ConfigurationError
from ..security import AuthorityFile, ConnectionString, Issuer, Role, authority_for_connectors, create_issuer
from ..security.issuer import DEFAULT_ISSUER_YEARS
from .authority_content import with_issuer
from .changes import TRY_AGAIN, FilesWritten, change_with_files, nothing, only_change_of
from .connections import read_authority_file
from .files_with_keys import read_file_of

__all__ = ["MadeIssuer", "has_issuer", "make_issuer"]


@attrs.frozen
class MadeIssuer:
    """What `make_issuer` has done."""

    written: FilesWritten
    #: When the issuer expires (seconds since 1970).
    not_after: float


def make_issuer(
    name: str,
    authority_path: Path,
    connectors: Sequence[Path],
    *,
    valid_years: float = DEFAULT_ISSUER_YEARS,
    now: float,
    before_change: Callable[[], None] = nothing,
) -> MadeIssuer:
    """Make an issuer, and write it into the authority file and into connection string files of connectors.

    Identities that an earlier issuer has signed stay valid.

    Args:
        name: the hybrid connection.
        authority_path: its authority file. Connection strings that are issued later for connectors have the issuer,
            too.
        connectors: the connection string files of connectors.
        valid_years: how long the issuer is valid.
        now: seconds since 1970.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: a file cannot be read, is for another hybrid connection, or is not a connector's; the
            authority has expired; or `valid_years` is not valid. Nothing was changed.
        HybridRelayError: a file cannot be written, or is being changed by another process. Nothing was changed.
    """
    with only_change_of([authority_path, *connectors]):
        authority_file = read_authority_file(authority_path, name)
        issuer = create_issuer(authority_file.authority, now=now, valid_years=valid_years)
        contents = {path: _with_issuer(path, name, authority_file, issuer) for path in connectors}
        written = change_with_files(
            nothing,
            before_change=before_change,
            replace={authority_path: with_issuer(authority_file, issuer).format(), **contents},
            what="the other files have the new issuer",
            remedy=TRY_AGAIN,
        )
        return MadeIssuer(written, issuer.not_after)


def has_issuer(path: Path, name: str) -> bool:
    """Return whether a connection string file has an issuer.

    Raises:
        ConfigurationError: it cannot be read, or is for another hybrid connection.
    """
    content = read_file_of(path, name)
    return isinstance(content, ConnectionString) and content.issuer is not None


def _with_issuer(path: Path, name: str, authority_file: AuthorityFile, issuer: Issuer) -> str:
    content = read_file_of(path, name)
    if not isinstance(content, ConnectionString) or content.role is not Role.CONNECTOR:
        raise ConfigurationError(
            f"{path} is not a connector's connection string",
            remedy="name connection string files of connectors with --update: applications need no issuer",
        )
    if content.authority is None or content.identity is None:
        raise ConfigurationError(f"{path} has no identity", remedy="issue another one: connections issue --help")
    authority = authority_for_connectors(authority_file.authority)
    if content.authority not in (authority, authority_file.authority.certificate):
        raise ConfigurationError(
            f"{path} belongs to an authority other than the one in the authority file of {name}",
            remedy="name the authority file that was created with the connection string",
        )
    return attrs.evolve(content, authority=authority, issuer=issuer).format() + "\n"
