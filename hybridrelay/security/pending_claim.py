"""A claim that was taken, and whose identity has not been issued yet.

The relay delivers a claim once. If no connector can issue the identity at that moment, the taker keeps what it has in
a file beside the one for the connection string, and asks again later. The file is JSON, and a secret. The private key
in it is that of the new identity: it was made on this machine, and stays there.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from .._text_files import strip_blanks
from ..errors import ClaimError, ConnectionStringError
from ..protocol.issuing import Issued
from .claim_seal import ClaimBundle, ClaimKeys
from .connection_string import ConnectionString, parse_connection_string_untrusted
from .encoding import decode_der_untrusted, encode_der
from .identity import Identity, IdentityDetails, IdentityName, Role, details_of
from .identity_requests import new_private_key
from .issuer import check_issued_untrusted
from .secret import Secret

__all__ = ["MAX_PENDING_CLAIM", "PendingClaim"]

#: In characters.
MAX_PENDING_CLAIM = 64 * 1024
_FORMAT = "hybridrelay-pending-claim"
_VERSION = 1
_REMEDY = "ask the administrator for a new claim, and remove this file"


@attrs.frozen
class PendingClaim:
    """What is needed to ask a connector for the identity of a claim. Its `repr` shows no secret."""

    #: An application's connection string without an identity.
    string: ConnectionString
    #: The authority's certificate (DER).
    authority: bytes = attrs.field(repr=False)
    #: The claim certificate (DER), and its private key.
    certificate: bytes = attrs.field(repr=False)
    claim_key: Secret
    #: The private key of the identity that is requested. It is always the same for one claim, so that asking again
    #: after an interruption is the same request.
    private_key: Secret

    @classmethod
    def begin(cls, keys: ClaimKeys, bundle: ClaimBundle) -> PendingClaim:
        """Begin with the content of a claim. This makes the new private key."""
        return cls(bundle.string, bundle.authority, bundle.certificate, keys.private_key(), new_private_key())

    @property
    def details(self) -> IdentityDetails:
        """The content of the claim certificate.

        Raises:
            ConfigurationError: it is damaged.
        """
        return details_of(self.certificate)

    @property
    def claiming(self) -> ConnectionString:
        """The connection string with which the identity is requested: its identity is the claim certificate."""
        return attrs.evolve(
            self.string, identity=Identity(self.certificate, self.claim_key), authority=self.authority
        )

    @property
    def expected(self) -> IdentityName:
        """The name of the identity that is requested."""
        name = self.details.name
        return IdentityName(name.connection_name, Role.APPLICATION, name.label)

    def complete(self, issued: Issued, *, now: float) -> ConnectionString:
        """Return the connection string with the identity that a connector has issued.

        Raises:
            ConfigurationError: what it has issued cannot be used.
        """
        check_issued_untrusted(issued, self.authority, self.expected, self.private_key, now=now)
        identity = Identity(issued.certificate, self.private_key, issued.issuer)
        return attrs.evolve(self.string, identity=identity, authority=self.authority)

    def format(self) -> str:
        """Return the text of the file. It contains private keys: write it with mode 0600."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "connectionString": self.string.format(),
            "authority": encode_der(self.authority),
            "claimCertificate": encode_der(self.certificate),
            "claimKey": self.claim_key.reveal(),
            "privateKey": self.private_key.reveal(),
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def parse_untrusted(cls, text: str) -> PendingClaim:
        """Parse the text of the file.

        Raises:
            ClaimError: it is not such a file, or is damaged. The message contains no part of it.
        """
        if len(text) > MAX_PENDING_CLAIM:
            raise ClaimError("the file is too long for a claim", remedy=_REMEDY)
        try:
            content = json.loads(strip_blanks(text))
        except (ValueError, RecursionError):
            raise ClaimError("this is not a claim that was taken", remedy=_REMEDY) from None
        if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
            raise ClaimError("this is not a claim that was taken, or it is of another version", remedy=_REMEDY)
        try:
            keys = [_text(content, name) for name in ("claimKey", "privateKey")]
            for key in keys:
                decode_der_untrusted(key)
            return cls(
                parse_connection_string_untrusted(_text(content, "connectionString")),
                decode_der_untrusted(_text(content, "authority")),
                decode_der_untrusted(_text(content, "claimCertificate")),
                *map(Secret, keys),
            )
        except (ValueError, ConnectionStringError):
            raise ClaimError("the claim that was taken is damaged", remedy=_REMEDY) from None


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise ValueError(name)
    return value
