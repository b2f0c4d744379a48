"""The authority file: everything that is needed to issue further identities for a hybrid connection.

It is JSON, and only for the administrator's machine. Anyone who has it can issue identities, so the relay never gets
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from .._text_files import strip_blanks
from ..errors import ConfigurationError
from .connection_string import looks_like_connection_string
from .encoding import decode_der_untrusted, encode_der
from .identity import Authority
from .secret import Secret

AUTHORITY_FORMAT = "hybridrelay-authority"
_VERSION = 1
_NOT_JSON = "this is not JSON, and therefore not an"
_REMEDY = "name the file that 'connections create' wrote as --authority-file (by default NAME.authority)"
#: In characters. Files that `AuthorityFile.format` writes are a few KB long.
MAX_AUTHORITY_FILE = 256 * 1024


@attrs.frozen
class AuthorityFile:
    """The content of an authority file."""

    authority: Authority
    #: Other content for connection strings (endpoint, rules with their keys, pins, ports, target): JSON values,
    #: some of them secret. Only `hybridrelay.administration` knows their meaning.
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def format(self) -> str:
        """Return the text of the file. It contains the authority's private key: write it with mode 0600."""
        content = {
            "format": AUTHORITY_FORMAT,
            "version": _VERSION,
            "connection": self.authority.connection_name,
            "certificate": encode_der(self.authority.certificate),
            "private_key": self.authority.private_key.reveal(),
            "extra": dict(self.extra),
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def parse_untrusted(cls, text: str) -> AuthorityFile:
        """Parse the text of an authority file.

        Raises:
            ConfigurationError: it is not an authority file, or is damaged. The message does not repeat any of the
                content.
        """
        if len(text) > MAX_AUTHORITY_FILE:
            raise ConfigurationError("the file is too long for an authority file")
        try:
            content = json.loads(strip_blanks(text))
        except (ValueError, RecursionError):
            what = "this is a connection string, not an" if looks_like_connection_string(text) else _NOT_JSON
            raise ConfigurationError(f"{what} authority file", remedy=_REMEDY) from None
        if not isinstance(content, dict) or content.get("format") != AUTHORITY_FORMAT:
            raise ConfigurationError("this is not an authority file", remedy=_REMEDY)
        version = content.get("version")
        if isinstance(version, bool) or version != _VERSION:
            raise ConfigurationError(
                "the authority file has an unknown format version",
                remedy="use the version of hybridrelay that wrote it, or a newer one",
            )
        extra = content.get("extra", {})
        if not isinstance(extra, dict):
            raise ConfigurationError("the authority file is damaged: extra")
        try:
            authority = Authority(
                _text(content, "connection"),
                _der(content, "certificate"),
                Secret(_text(content, "private_key")),
            )
        except ValueError as exc:
            raise ConfigurationError(f"the authority file is damaged: {exc}") from None
        return cls(authority, extra)


def _der(content: Mapping[str, Any], key: str) -> bytes:
    try:
        return decode_der_untrusted(_text(content, key))
    except ValueError as exc:
        raise ConfigurationError(f"the authority file is damaged: {key}: {exc}") from None


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise ConfigurationError(f"the authority file is damaged: {key}")
    return value
