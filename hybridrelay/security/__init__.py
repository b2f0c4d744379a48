"""Keys and trust: tokens and rules, end-to-end identities, TLS contexts, connection strings.

Pure where possible: clocks are arguments. ``cryptography`` is imported only by the functions that need it.
"""

from __future__ import annotations

from .admission import NO_PROOF, AdmissionProof, admission_key_id, make_admission_proof
from .authority_file import AuthorityFile
from .connection_string import ConnectionString, check_is_connection_string, parse_connection_string_untrusted
from .endpoints import (
    Endpoint,
    check_hosts,
    format_port_lists,
    format_ports,
    pair_endpoints,
    parse_port_lists_untrusted,
    parse_ports_untrusted,
)
from .identity import (
    Authority,
    Identity,
    IdentityDetails,
    IdentityName,
    Role,
    check_label,
    create_authority,
    expires_soon,
)
from .loading import ENVIRONMENT_VARIABLE, load_connection_string
from .management_tokens import (
    ManagementRole,
    ManagementToken,
    check_scope,
    check_token_id,
    check_token_name,
    generate_management_token,
    parse_management_token_untrusted,
)
from .management_url import ManagementUrl, management_authorization, parse_management_url_untrusted
from .names import HostPort, bracketed, check_connection_name, check_host, parse_host_port_untrusted
from .networks import NO_NETWORKS, Networks, parse_networks_untrusted
from .pins import check_pin, spki_pin
from .relay_tls import (
    certificate_expires_at,
    check_relay_pin,
    control_client_context,
    control_server_context,
    load_or_create_relay_certificate,
    management_client_context,
    outer_client_context,
    outer_server_context,
    relay_identity_error,
    relay_pin,
)
from .rules import KeySlot, Right, Rule, check_key, check_rule_name, check_rules, generate_key, key_fingerprint
from .sas import Authorization, SasToken, audience_for, make_token, parse_token_untrusted, verify_token
from .secret import Secret
from .string_update import StringUpdate, update_string
from .tls import PeerIdentity, check_peer, data_client_context, data_server_context, peer_identity_error

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "NO_NETWORKS",
    "NO_PROOF",
    "AdmissionProof",
    "Authority",
    "AuthorityFile",
    "Authorization",
    "ConnectionString",
    "Endpoint",
    "HostPort",
    "Identity",
    "IdentityDetails",
    "IdentityName",
    "KeySlot",
    "ManagementRole",
    "ManagementToken",
    "ManagementUrl",
    "Networks",
    "PeerIdentity",
    "Right",
    "Role",
    "Rule",
    "SasToken",
    "Secret",
    "StringUpdate",
    "admission_key_id",
    "audience_for",
    "bracketed",
    "certificate_expires_at",
    "check_connection_name",
    "check_host",
    "check_hosts",
    "check_is_connection_string",
    "check_key",
    "check_label",
    "check_peer",
    "check_pin",
    "check_relay_pin",
    "check_rule_name",
    "check_rules",
    "check_scope",
    "check_token_id",
    "check_token_name",
    "control_client_context",
    "control_server_context",
    "create_authority",
    "data_client_context",
    "data_server_context",
    "expires_soon",
    "format_port_lists",
    "format_ports",
    "generate_key",
    "generate_management_token",
    "key_fingerprint",
    "load_connection_string",
    "load_or_create_relay_certificate",
    "make_admission_proof",
    "make_token",
    "management_authorization",
    "management_client_context",
    "outer_client_context",
    "outer_server_context",
    "pair_endpoints",
    "parse_connection_string_untrusted",
    "parse_host_port_untrusted",
    "parse_management_token_untrusted",
    "parse_management_url_untrusted",
    "parse_networks_untrusted",
    "parse_port_lists_untrusted",
    "parse_ports_untrusted",
    "parse_token_untrusted",
    "peer_identity_error",
    "relay_identity_error",
    "relay_pin",
    "spki_pin",
    "update_string",
    "verify_token",
]
