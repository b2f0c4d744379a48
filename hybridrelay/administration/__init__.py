"""What administrators do: create, import, issue, change and delete hybrid connections, their rules and their keys.

The functions have typed arguments and results, so that the command line and any other front end can use them. They
are synchronous, read and write files, and reach a relay through a `Registry`, which uses either the relay's store or
its management API. They print nothing, and parse no command line. Their errors (`HybridRelayError`) say whether
anything was changed, and what to do.

Names are loaded when they are first used, so that a program loads only what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .changes import FilesWritten as FilesWritten
    from .changes import IncompleteChange as IncompleteChange
    from .claims import CreatedClaim as CreatedClaim
    from .claims import IdentityOnRequest as IdentityOnRequest
    from .claims import create_claim as create_claim
    from .claims import prepare_claim as prepare_claim
    from .claims import revoke_claim as revoke_claim
    from .connections import CreatedConnection as CreatedConnection
    from .connections import NewFiles as NewFiles
    from .connections import create_connection as create_connection
    from .connections import delete_connection as delete_connection
    from .connections import import_connection as import_connection
    from .connections import issue_connection_string as issue_connection_string
    from .connections import make_connection_string as make_connection_string
    from .connections import read_relay_record as read_relay_record
    from .connections import set_disabled as set_disabled
    from .declared import Application as Application
    from .declared import Change as Change
    from .declared import Declared as Declared
    from .declared import is_deletion as is_deletion
    from .declared import plan_changes as plan_changes
    from .declared_state import advice_after as advice_after
    from .declared_state import find_state as find_state
    from .declared_state import make_change as make_change
    from .declared_state import update_config as update_config
    from .files_with_relays import FileWithRelays as FileWithRelays
    from .issuers import MadeIssuer as MadeIssuer
    from .issuers import make_issuer as make_issuer
    from .keys import KeySource as KeySource
    from .keys import RegeneratedKey as RegeneratedKey
    from .keys import RevokedKey as RevokedKey
    from .keys import RolledKey as RolledKey
    from .keys import UsedKey as UsedKey
    from .keys import regenerate_key as regenerate_key
    from .keys import revoke_key as revoke_key
    from .keys import roll_key as roll_key
    from .keys import use_key as use_key
    from .limits import AppliedLimits as AppliedLimits
    from .limits import EditionInUse as EditionInUse
    from .limits import change_edition as change_edition
    from .limits import change_limits as change_limits
    from .limits import use_edition as use_edition
    from .local_names import change_local_name as change_local_name
    from .registry import ClaimInfo as ClaimInfo
    from .registry import ConnectionInfo as ConnectionInfo
    from .registry import KeyInfo as KeyInfo
    from .registry import ProgramInfo as ProgramInfo
    from .registry import RecipientInfo as RecipientInfo
    from .registry import Registry as Registry
    from .registry import RelayDescription as RelayDescription
    from .registry import RollInfo as RollInfo
    from .registry import RuleInfo as RuleInfo
    from .registry import TokenInfo as TokenInfo
    from .registry import UpdateInfo as UpdateInfo
    from .relays import ChangedRelays as ChangedRelays
    from .relays import change_relays as change_relays
    from .relays import other_ports as other_ports
    from .rules import ChangedRule as ChangedRule
    from .rules import delete_rule as delete_rule
    from .rules import set_rule as set_rule
    from .services import ServiceRole as ServiceRole
    from .services import ServiceSettings as ServiceSettings
    from .services import example_config as example_config
    from .services import launchd_plist as launchd_plist
    from .services import systemd_unit as systemd_unit
    from .services import windows_text as windows_text
    from .store_registry import StoreRegistry as StoreRegistry
    from .store_registry import add_token as add_token
    from .store_registry import describe_relay as describe_relay
    from .targets import change_target as change_target
    from .tokens import create_token as create_token
    from .tokens import revoke_token as revoke_token
    from .updates import PushedContent as PushedContent
    from .updates import PushedUpdates as PushedUpdates
    from .updates import Wanted as Wanted
    from .updates import push_updates as push_updates
    from .updates import pushed_so_far as pushed_so_far

_HOMES = {
    "changes": (
        "FilesWritten",
        "IncompleteChange",
    ),
    "claims": ("CreatedClaim", "IdentityOnRequest", "create_claim", "prepare_claim", "revoke_claim"),
    "connections": (
        "CreatedConnection",
        "NewFiles",
        "create_connection",
        "delete_connection",
        "set_disabled",
        "import_connection",
        "issue_connection_string",
        "make_connection_string",
        "read_relay_record",
    ),
    "declared": ("Application", "Change", "Declared", "is_deletion", "plan_changes"),
    "declared_state": ("advice_after", "find_state", "make_change", "update_config"),
    "files_with_relays": ("FileWithRelays",),
    "issuers": ("MadeIssuer", "make_issuer"),
    "keys": (
        "KeySource",
        "RegeneratedKey",
        "RevokedKey",
        "RolledKey",
        "UsedKey",
        "regenerate_key",
        "revoke_key",
        "roll_key",
        "use_key",
    ),
    "limits": (
        "AppliedLimits",
        "EditionInUse",
        "change_edition",
        "change_limits",
        "use_edition",
    ),
    "local_names": ("change_local_name",),
    "registry": (
        "ClaimInfo",
        "ConnectionInfo",
        "ProgramInfo",
        "KeyInfo",
        "RecipientInfo",
        "Registry",
        "RelayDescription",
        "RollInfo",
        "RuleInfo",
        "TokenInfo",
        "UpdateInfo",
    ),
    "relays": (
        "ChangedRelays",
        "change_relays",
        "other_ports",
    ),
    "rules": (
        "ChangedRule",
        "delete_rule",
        "set_rule",
    ),
    "services": (
        "ServiceRole",
        "ServiceSettings",
        "example_config",
        "launchd_plist",
        "systemd_unit",
        "windows_text",
    ),
    "store_registry": (
        "StoreRegistry",
        "add_token",
        "describe_relay",
    ),
    "targets": ("change_target",),
    "tokens": (
        "create_token",
        "revoke_token",
    ),
    "updates": (
        "PushedUpdates",
        "Wanted",
        "PushedContent",
        "push_updates",
        "pushed_so_far",
    ),
}

__all__ = [name for names in _HOMES.values() for name in names]
__getattr__, __dir__ = load_when_used(__name__, _HOMES)
