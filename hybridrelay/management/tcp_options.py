"""The options of the management API over TCP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from .._value import Value
from ..errors import ConfigurationError
from ..security import NO_NETWORKS, Networks
from ..security.names import is_loopback

__all__ = ["TcpOptions"]


@attrs.frozen(kw_only=True)
class TcpOptions(Value):
    """The options for the management API over TCP.

    Raises:
        ConfigurationError: an address is not a loopback address, and there is no certificate; or an option is missing
            that another one requires.
    """

    #: Hosts and port numbers. Port 0 means any free port. Without an address, the API is not served over TCP.
    addresses: Sequence[tuple[str, int]] = ()
    #: The server certificate and its chain (PEM).
    certificate: Path | None = None
    #: The certificate's private key (PEM), if it is not in the same file.
    key: Path | None = None
    #: The certificate authorities that issue client certificates (PEM).
    client_ca: Path | None = None
    #: Proxies whose connections have to begin with a PROXY header.
    proxy_protocol_from: Networks = NO_NETWORKS
    #: Reverse proxies that are trusted to say where a request comes from (X-Forwarded-For, Forwarded).
    trusted_proxies: Networks = NO_NETWORKS
    #: Host names by which clients reach the API, in addition to those in the certificate.
    hosts: Sequence[str] = ()

    def __attrs_post_init__(self) -> None:
        if self.certificate is None:
            for option, value in (("key", self.key), ("client CA", self.client_ca)):
                if value is not None:
                    raise ConfigurationError(
                        f"a {option} for the management API needs a certificate",
                        remedy="give --management-tls-certificate as well",
                    )
            for host, _ in self.addresses:
                if not is_loopback(host):
                    raise ConfigurationError(
                        f"the management API on {host} needs TLS: otherwise, tokens cross the network unencrypted",
                        remedy="give --management-tls-certificate and --management-tls-key, or listen on 127.0.0.1 "
                        "and connect through ssh -L",
                    )
