"""Keys and trust: tokens and rules, end-to-end identities, TLS contexts, connection strings.

Pure where possible: clocks are arguments. ``cryptography`` is imported only by the functions that need it.

Names are loaded when they are first used, so that a program loads only what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .admission import NO_PROOF as NO_PROOF
    from .admission import AdmissionProof as AdmissionProof
    from .admission import admission_key_id as admission_key_id
    from .admission import make_admission_proof as make_admission_proof
    from .authority_file import AuthorityFile as AuthorityFile
    from .claim_code import ClaimCode as ClaimCode
    from .claim_code import parse_claim_code_untrusted as parse_claim_code_untrusted
    from .claim_seal import MAX_SEALED as MAX_SEALED
    from .claim_seal import ClaimBundle as ClaimBundle
    from .claim_seal import ClaimContent as ClaimContent
    from .claim_seal import ClaimKeys as ClaimKeys
    from .claim_seal import open_claim_untrusted as open_claim_untrusted
    from .claim_seal import seal_claim as seal_claim
    from .connection_string import MAX_SEQUENCE as MAX_SEQUENCE
    from .connection_string import ConnectionString as ConnectionString
    from .connection_string import check_is_connection_string as check_is_connection_string
    from .connection_string import parse_connection_string_untrusted as parse_connection_string_untrusted
    from .encoding import decode_der_untrusted as decode_der_untrusted
    from .encoding import encode_der as encode_der
    from .endpoints import Endpoint as Endpoint
    from .endpoints import check_hosts as check_hosts
    from .endpoints import format_port_lists as format_port_lists
    from .endpoints import format_ports as format_ports
    from .endpoints import pair_endpoints as pair_endpoints
    from .endpoints import parse_port_lists_untrusted as parse_port_lists_untrusted
    from .endpoints import parse_ports_untrusted as parse_ports_untrusted
    from .identity import Authority as Authority
    from .identity import Identity as Identity
    from .identity import IdentityDetails as IdentityDetails
    from .identity import IdentityName as IdentityName
    from .identity import Role as Role
    from .identity import check_label as check_label
    from .identity import create_authority as create_authority
    from .identity import details_of as details_of
    from .identity_requests import IdentityRequest as IdentityRequest
    from .identity_requests import RequestError as RequestError
    from .identity_requests import make_request as make_request
    from .identity_requests import new_private_key as new_private_key
    from .identity_requests import parse_request_untrusted as parse_request_untrusted
    from .issuer import Issuer as Issuer
    from .issuer import authority_for_connectors as authority_for_connectors
    from .issuer import certify_claim as certify_claim
    from .issuer import check_issued_untrusted as check_issued_untrusted
    from .issuer import claim_private_key as claim_private_key
    from .issuer import create_issuer as create_issuer
    from .loading import ENVIRONMENT_VARIABLE as ENVIRONMENT_VARIABLE
    from .loading import load_connection_string as load_connection_string
    from .local_names import NO_LOCAL_NAME as NO_LOCAL_NAME
    from .local_names import LocalNameChoice as LocalNameChoice
    from .local_names import check_local_name as check_local_name
    from .local_names import choose_local_name as choose_local_name
    from .local_names import local_name_of_target as local_name_of_target
    from .local_names import parse_local_name_untrusted as parse_local_name_untrusted
    from .management_tokens import ManagementRole as ManagementRole
    from .management_tokens import ManagementToken as ManagementToken
    from .management_tokens import check_scope as check_scope
    from .management_tokens import check_token_id as check_token_id
    from .management_tokens import check_token_name as check_token_name
    from .management_tokens import generate_management_token as generate_management_token
    from .management_tokens import parse_management_token_untrusted as parse_management_token_untrusted
    from .management_url import ManagementUrl as ManagementUrl
    from .management_url import management_authorization as management_authorization
    from .management_url import parse_management_url_untrusted as parse_management_url_untrusted
    from .names import HostPort as HostPort
    from .names import Protocols as Protocols
    from .names import bracketed as bracketed
    from .names import check_connection_name as check_connection_name
    from .names import check_host as check_host
    from .names import parse_host_port_untrusted as parse_host_port_untrusted
    from .networks import NO_NETWORKS as NO_NETWORKS
    from .networks import Networks as Networks
    from .networks import parse_networks_untrusted as parse_networks_untrusted
    from .pending_claim import PendingClaim as PendingClaim
    from .pins import check_pin as check_pin
    from .pins import spki_pin as spki_pin
    from .relay_tls import certificate_expires_at as certificate_expires_at
    from .relay_tls import check_relay_pin as check_relay_pin
    from .relay_tls import control_client_context as control_client_context
    from .relay_tls import control_server_context as control_server_context
    from .relay_tls import load_or_create_relay_certificate as load_or_create_relay_certificate
    from .relay_tls import management_client_context as management_client_context
    from .relay_tls import outer_server_context as outer_server_context
    from .relay_tls import relay_identity_error as relay_identity_error
    from .relay_tls import relay_pin as relay_pin
    from .rules import KeySlot as KeySlot
    from .rules import Right as Right
    from .rules import Rule as Rule
    from .rules import check_key as check_key
    from .rules import check_rule_name as check_rule_name
    from .rules import check_rules as check_rules
    from .rules import generate_key as generate_key
    from .rules import key_fingerprint as key_fingerprint
    from .sas import Authorization as Authorization
    from .sas import SasToken as SasToken
    from .sas import audience_for as audience_for
    from .sas import make_token as make_token
    from .sas import parse_token_untrusted as parse_token_untrusted
    from .sas import verify_token as verify_token
    from .secret import Secret as Secret
    from .string_update import StringUpdate as StringUpdate
    from .string_update import update_string as update_string
    from .targets import HostPorts as HostPorts
    from .targets import HostTarget as HostTarget
    from .targets import NamedInstance as NamedInstance
    from .targets import PortSet as PortSet
    from .targets import StreamTarget as StreamTarget
    from .targets import Target as Target
    from .targets import UnixSocket as UnixSocket
    from .targets import each_stream_target as each_stream_target
    from .targets import parse_target_untrusted as parse_target_untrusted
    from .targets import protocols_of as protocols_of
    from .tls import PeerIdentity as PeerIdentity
    from .tls import check_peer as check_peer
    from .tls import data_client_context as data_client_context
    from .tls import data_server_context as data_server_context
    from .tls import peer_identity_error as peer_identity_error
    from .update_document import MAX_EXCLUDED as MAX_EXCLUDED
    from .update_document import MAX_UPDATE as MAX_UPDATE
    from .update_document import Update as Update
    from .update_document import authority_key_of as authority_key_of
    from .update_document import open_update_untrusted as open_update_untrusted
    from .update_document import seal_update as seal_update
    from .update_document import update_key as update_key

_HOMES = {
    "admission": (
        "AdmissionProof",
        "NO_PROOF",
        "admission_key_id",
        "make_admission_proof",
    ),
    "authority_file": ("AuthorityFile",),
    "claim_code": (
        "ClaimCode",
        "parse_claim_code_untrusted",
    ),
    "claim_seal": (
        "ClaimBundle",
        "ClaimContent",
        "ClaimKeys",
        "MAX_SEALED",
        "open_claim_untrusted",
        "seal_claim",
    ),
    "connection_string": (
        "ConnectionString",
        "MAX_SEQUENCE",
        "check_is_connection_string",
        "parse_connection_string_untrusted",
    ),
    "endpoints": (
        "Endpoint",
        "check_hosts",
        "format_port_lists",
        "format_ports",
        "pair_endpoints",
        "parse_port_lists_untrusted",
        "parse_ports_untrusted",
    ),
    "identity": (
        "Authority",
        "Identity",
        "IdentityDetails",
        "IdentityName",
        "Role",
        "check_label",
        "create_authority",
        "details_of",
    ),
    "identity_requests": (
        "IdentityRequest",
        "RequestError",
        "make_request",
        "new_private_key",
        "parse_request_untrusted",
    ),
    "issuer": (
        "Issuer",
        "authority_for_connectors",
        "certify_claim",
        "check_issued_untrusted",
        "claim_private_key",
        "create_issuer",
    ),
    "encoding": (
        "decode_der_untrusted",
        "encode_der",
    ),
    "loading": (
        "ENVIRONMENT_VARIABLE",
        "load_connection_string",
    ),
    "local_names": (
        "LocalNameChoice",
        "NO_LOCAL_NAME",
        "check_local_name",
        "choose_local_name",
        "local_name_of_target",
        "parse_local_name_untrusted",
    ),
    "management_tokens": (
        "ManagementRole",
        "ManagementToken",
        "check_scope",
        "check_token_id",
        "check_token_name",
        "generate_management_token",
        "parse_management_token_untrusted",
    ),
    "management_url": (
        "ManagementUrl",
        "management_authorization",
        "parse_management_url_untrusted",
    ),
    "names": (
        "HostPort",
        "Protocols",
        "bracketed",
        "check_connection_name",
        "check_host",
        "parse_host_port_untrusted",
    ),
    "networks": (
        "NO_NETWORKS",
        "Networks",
        "parse_networks_untrusted",
    ),
    "pins": (
        "check_pin",
        "spki_pin",
    ),
    "relay_tls": (
        "certificate_expires_at",
        "check_relay_pin",
        "control_client_context",
        "control_server_context",
        "load_or_create_relay_certificate",
        "management_client_context",
        "outer_server_context",
        "relay_identity_error",
        "relay_pin",
    ),
    "rules": (
        "KeySlot",
        "Right",
        "Rule",
        "check_key",
        "check_rule_name",
        "check_rules",
        "generate_key",
        "key_fingerprint",
    ),
    "sas": (
        "Authorization",
        "SasToken",
        "audience_for",
        "make_token",
        "parse_token_untrusted",
        "verify_token",
    ),
    "secret": ("Secret",),
    "string_update": (
        "StringUpdate",
        "update_string",
    ),
    "pending_claim": ("PendingClaim",),
    "targets": (
        "HostPorts",
        "HostTarget",
        "NamedInstance",
        "PortSet",
        "StreamTarget",
        "Target",
        "UnixSocket",
        "each_stream_target",
        "parse_target_untrusted",
        "protocols_of",
    ),
    "tls": (
        "PeerIdentity",
        "check_peer",
        "data_client_context",
        "data_server_context",
        "peer_identity_error",
    ),
    "update_document": (
        "MAX_EXCLUDED",
        "MAX_UPDATE",
        "Update",
        "authority_key_of",
        "open_update_untrusted",
        "seal_update",
        "update_key",
    ),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
