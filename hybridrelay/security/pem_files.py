"""Reading certificates and keys from PEM files, in any encoding that editors use, and explaining what is wrong with
them.

OpenSSL can read files itself, but does not accept byte-order marks and UTF-16, and reports most errors as "PEM lib".
"""

from __future__ import annotations

import os
import re
import ssl
from typing import NoReturn

from .._text_files import TextError, decode_text, read_bytes
from ..errors import ConfigurationError
from .tls import not_passed, private_file

#: What messages call a file with the certificates of CAs.
CA_FILE = "the CA file"
#: In bytes. A certificate chain has a few KB.
_MAX_FILE = 1 << 20
_CERTIFICATE = re.compile(r"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
_WHOLE_CERTIFICATE = re.compile(
    r"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END (?:TRUSTED |X509 )?CERTIFICATE-----", re.DOTALL
)
_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
#: What is wrong with a key or certificate, and what is required, by OpenSSL's reason.
_TOO_WEAK = {
    "EE_KEY_TOO_SMALL": ("the public key of the certificate in {certificate} is too short", "RSA needs 2048 bits"),
    "CA_KEY_TOO_SMALL": ("the public key of a CA in {certificate} is too short", "RSA needs 2048 bits"),
    "CA_MD_TOO_WEAK": ("a certificate in {certificate} has too weak a signature (MD5 or SHA-1)", "SHA-256 is needed"),
}
_DIFFERENT = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def read_pem(path: str | os.PathLike[str], *, what: str) -> str:
    """Read a PEM file: ASCII, or another encoding in which an editor has saved it.

    Args:
        path: the file.
        what: the kind of file, for messages.

    Raises:
        ConfigurationError: it cannot be read, or is not PEM. The message does not repeat its content.
    """
    data = read_bytes(path, what=what, limit=_MAX_FILE, regular=True)
    if data.startswith(b"\x30") and b"-----BEGIN" not in data:
        raise ConfigurationError(f"{path} is {_kind_of_der(data)}, not PEM", remedy=_conversion(data, path))
    try:
        return decode_text(data, source=str(path), limit=_MAX_FILE)
    except TextError:
        if len(data) > _MAX_FILE:
            raise
        if b"-----BEGIN" not in data:
            raise ConfigurationError(f"{path} is not PEM", remedy="PEM is text with lines of -----BEGIN") from None
        return data.decode("latin-1")  # comments between the parts may be in any encoding


def load_chain(
    context: ssl.SSLContext, certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None
) -> None:
    """Load a server's certificate and key into a context.

    Args:
        context: the context to be changed.
        certificate_file: a PEM file with the server's certificate, then those of its CAs; and with the key, if there
            is no `key_file`.
        key_file: a PEM file with the key, not encrypted.

    Raises:
        ConfigurationError: a file cannot be used, the key does not belong to the certificate, or it cannot be passed
            to OpenSSL.
    """
    certificate = read_pem(certificate_file, what="the certificate file")
    if not _CERTIFICATE.search(certificate):
        raise ConfigurationError(
            f"there is no certificate in {certificate_file}", remedy="it needs a part -----BEGIN CERTIFICATE-----"
        )
    key = certificate if key_file is None else read_pem(key_file, what="the key file")
    key_source = certificate_file if key_file is None else key_file
    if not _KEY.search(key):
        raise ConfigurationError(
            f"there is no private key in {key_source}",
            remedy="name the file of the private key with --tls-key" if key_file is None else "name another file",
        )

    def no_password() -> NoReturn:
        # Without this, OpenSSL would ask for the password on the terminal and wait.
        raise ConfigurationError(
            f"the key in {key_source} is encrypted",
            remedy=f"decrypt it: openssl pkey -in {key_source} -out FILE",
        )

    try:
        with private_file(certificate.encode()) as certificate_path, private_file(key.encode()) as key_path:
            context.load_cert_chain(certificate_path, key_path, password=no_password)
    except ssl.SSLError as exc:
        raise _explain(exc.reason or "", certificate_file, key_source) from exc
    except OSError as exc:
        raise not_passed(exc) from exc


def certificates_in(text: str) -> frozenset[str]:
    """Return the certificates in the text of a PEM file, each in base64 without spaces and line ends."""
    return frozenset("".join(found[1].split()) for found in _WHOLE_CERTIFICATE.finditer(text))


def load_authorities(context: ssl.SSLContext, ca_file: str | os.PathLike[str]) -> None:
    """Make a context trust the CAs in a PEM file.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    use_authorities(context, read_pem(ca_file, what=CA_FILE), ca_file)


def use_authorities(context: ssl.SSLContext, text: str, ca_file: str | os.PathLike[str]) -> None:
    """Make a context trust the CAs in the text of a PEM file (`read_pem`), which may contain others than certificates
    of CAs.

    Raises:
        ConfigurationError: there is no certificate in it. The message names the file.
    """
    try:
        context.load_verify_locations(cadata="".join(char for char in text if char.isascii()))
    except ssl.SSLError as exc:
        raise ConfigurationError(
            f"there is no usable certificate in {ca_file}", remedy="it needs a part -----BEGIN CERTIFICATE-----"
        ) from exc


def _explain(
    reason: str, certificate_file: str | os.PathLike[str], key_source: str | os.PathLike[str]
) -> ConfigurationError:
    if reason in _DIFFERENT:
        return ConfigurationError(
            f"the private key in {key_source} does not belong to the first certificate in {certificate_file}",
            remedy="name the key that this certificate was made for, and put the server's own certificate before its "
            "CA's",
        )
    if reason in _TOO_WEAK:
        problem, remedy = _TOO_WEAK[reason]
        return ConfigurationError(problem.format(certificate=certificate_file), remedy=f"get a new one: {remedy}")
    files = f"{certificate_file}" + (f" or {key_source}" if key_source != certificate_file else "")
    return ConfigurationError(
        f"the certificate or the key in {files} is damaged ({reason.lower().replace('_', ' ') or 'no reason given'})",
        remedy=f"see what OpenSSL says: openssl x509 -noout -in {certificate_file}; openssl pkey -noout -in "
        f"{key_source}",
    )


def _kind_of_der(data: bytes) -> str:
    match _content_of_sequence(data)[:4]:
        case b"\x02\x01\x03\x30":
            return "PKCS #12 (.pfx)"
        case content if content.startswith(b"\x02\x01"):
            return "a key in DER"
        case _:
            return "a certificate in DER"


def _conversion(data: bytes, path: str | os.PathLike[str]) -> str:
    match _kind_of_der(data):
        case "PKCS #12 (.pfx)":
            return f"convert it: openssl pkcs12 -in {path} -nodes -out FILE.pem"
        case "a key in DER":
            return f"convert it: openssl pkey -inform DER -in {path} -out FILE.pem"
        case _:
            return f"convert it: openssl x509 -inform DER -in {path} -out FILE.pem"


def _content_of_sequence(data: bytes) -> bytes:
    """Return the content of a DER structure, after its tag and length (X.690, 8.1.3)."""
    return data[2 + (data[1] & 0x7F if data[1:2] >= b"\x80" else 0) :]
