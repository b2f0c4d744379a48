"""The configuration of a connector."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .._value import Value
from ..abc import Dialer
from ..connectivity.discovery import AUTO
from ..connectivity.link import UPGRADE_INTERVAL_SECONDS
from ..connectivity.new_keys import KeepString
from ..connectivity.string_files import keep_in_own_file
from ..connectivity.updates import FloorOf
from ..errors import ConfigurationError
from ..mux import DATA_CONFIG
from ..policy import Policy, PolicyFile
from ..security import ConnectionString, check_is_connection_string
from .instance_file import InstanceFile

if TYPE_CHECKING:
    from ..audit import AuditLog

__all__ = ["ConnectorConfig"]


def _to_paths(paths: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    return tuple(map(Path, paths))


def _to_strings(strings: Iterable[ConnectionString]) -> tuple[ConnectionString, ...]:
    if isinstance(strings, str | bytes | os.PathLike | ConnectionString):
        raise TypeError(
            f"expected a list of ConnectionString, not {type(strings).__name__}: [load_connection_string(path)]"
        )
    found = tuple(map(check_is_connection_string, strings))
    if not found:
        raise ConfigurationError("a connector needs at least one connection string")
    return found


@attrs.frozen
class ConnectorConfig(Value):
    """The configuration of a connector.

    Raises:
        ConfigurationError: there is no connection string.
        TypeError: `strings` is not a list of `ConnectionString`.
        ValueError: a number of seconds is out of range: `upgrade_interval` has to be greater than 0, and
            `check_target_interval` at least 1; `resume_deadline` must not be negative.
    """

    #: One connector's connection string for each hybrid connection to be served. Strings that name the same relay
    #: share a control channel.
    strings: tuple[ConnectionString, ...] = attrs.field(converter=_to_strings)
    #: ``auto``, or the name of the only transport allowed.
    mode: str = attrs.field(default=AUTO, kw_only=True)
    #: Opens connections to the relays. None: connections go through the proxy that the environment names
    #: (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), if any.
    dialer: Dialer | None = attrs.field(default=None, kw_only=True)
    #: The deny list, or a file with one, which is read again whenever it changes. The policy of the machine applies,
    #: too.
    policy: Policy | PolicyFile = attrs.field(factory=Policy, kw_only=True)
    #: Directories with policy files, which can only restrict further what the policy of the machine allows.
    policy_directories: tuple[Path, ...] = attrs.field(default=(), kw_only=True, converter=_to_paths)
    #: How long a session that has lost its data channel may take to resume before its streams are reset (seconds).
    #: 0: sessions do not resume.
    resume_deadline: float = attrs.field(
        default=DATA_CONFIG.resume_deadline, kw_only=True, validator=attrs.validators.ge(0)
    )
    #: While the route in use is not the best, how soon the prober first looks for a better one (seconds). The
    #: interval then grows.
    upgrade_interval: float = attrs.field(
        default=UPGRADE_INTERVAL_SECONDS, kw_only=True, validator=attrs.validators.gt(0)
    )
    #: Stores the secrets of the connector's instances, so that after a crash clients reset their streams as soon as
    #: the connector is back. With None, they are reset only after the resume deadline.
    instance_file: InstanceFile | None = attrs.field(default=None, kw_only=True)
    #: The audit log, which has to have the record of a stream before the target is dialed. It has to be open
    #: (`AuditLog.opened`) for the events that are passed to `run_connector`.
    audit: AuditLog | None = attrs.field(default=None, kw_only=True)
    #: Stores a connection string with another key (while a key is rolled), or with an update, so that the next start
    #: uses it. By default, it is stored in the file that it was read from (`ConnectionString.file`), if there is one.
    #: None: it is only in memory, and the relay is told so.
    keep_string: KeepString | None = attrs.field(default=keep_in_own_file, kw_only=True)
    #: See `FloorOf`. Protects from earlier updates after a backup of a connection string was restored.
    update_floor: FloorOf | None = attrs.field(default=None, kw_only=True)
    #: How often to check a target to which nobody connects (seconds, at least 1). With each check, the target sees a
    #: connection that is closed at once. With None, a target is checked only after connections to it have failed,
    #: until it can be reached again. The relays prefer connectors whose targets can be reached.
    check_target_interval: float | None = attrs.field(
        default=None, kw_only=True, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    #: Whether to connect at the same time to all addresses to which a target's name resolves (to 8 of them, and to
    #: another one when an attempt has failed), instead of to one after the other. The first connection is used, and
    #: the others are reset.
    #: `Connector.connect_in_parallel` changes it for one hybrid connection.
    connect_in_parallel: bool = attrs.field(default=False, kw_only=True)
    #: The file in which the connector records which claims were used, if a connection string has an issuer. With
    #: None, it issues no identities for claims, but renews those of applications.
    used_claims: Path | None = attrs.field(default=None, kw_only=True)
