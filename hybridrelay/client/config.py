"""The configuration of a client."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .._defaults import OPEN_PATIENCE
from .._value import Value
from ..abc import Dialer
from ..connectivity.discovery import AUTO
from ..connectivity.link import UPGRADE_INTERVAL_SECONDS
from ..connectivity.new_keys import KeepString
from ..connectivity.string_files import keep_in_own_file
from ..connectivity.updates import FloorOf
from ..mux import DATA_CONFIG, Budget
from ..security import ConnectionString, check_is_connection_string, parse_connection_string_untrusted
from .patience import check_patience
from .use_renewed import UseRenewed

if TYPE_CHECKING:  # loaded only by programs that have an audit log
    from ..audit import AuditLog

__all__ = ["ClientConfig", "to_connection_string"]


def to_connection_string(connection_string: str | ConnectionString) -> ConnectionString:
    """Return the connection string, parsed if it is text.

    Raises:
        ConnectionStringError: the text is malformed; `part` names the field.
        TypeError: it is neither text nor a `ConnectionString`.
    """
    if isinstance(connection_string, str):
        return parse_connection_string_untrusted(connection_string)
    return check_is_connection_string(connection_string)


def _to_paths(paths: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    return tuple(map(Path, paths))


def _check_application(_: object, __: attrs.Attribute[ConnectionString], string: ConnectionString) -> None:
    string.require_application()


def _check_patience(_: object, __: attrs.Attribute[float], seconds: float) -> None:
    check_patience(seconds)


@attrs.frozen
class ClientConfig(Value):
    """The configuration of a client.

    Raises:
        ConnectionStringError: the text is malformed, or is a connector's connection string; `part` names the field.
        TypeError: `string` is neither text nor a `ConnectionString`.
        ValueError: a number of seconds is out of range: `upgrade_interval` has to be greater than 0, and the others
            must not be negative.
    """

    #: An application's connection string, as text or parsed.
    string: ConnectionString = attrs.field(converter=to_connection_string, validator=_check_application)
    #: ``auto``, or the name of the only transport allowed (``tcp``, ``websocket``). An unknown name is an error when
    #: the client is opened.
    mode: str = attrs.field(default=AUTO, kw_only=True)
    #: Opens connections to the relays. None: connections go through the proxy that the environment names
    #: (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), if any.
    dialer: Dialer | None = attrs.field(default=None, kw_only=True)
    #: How long a new stream waits for a session while the relay or the connector is unavailable (seconds). Errors
    #: that waiting cannot change are raised immediately. 0 means a single attempt.
    open_patience: float = attrs.field(default=OPEN_PATIENCE, kw_only=True, validator=_check_patience)
    #: How long a session that has lost its data channel may take to resume before its streams are reset (seconds).
    #: The connector has a deadline of its own, and the shorter one counts. 0: sessions do not resume.
    resume_deadline: float = attrs.field(
        default=DATA_CONFIG.resume_deadline, kw_only=True, validator=attrs.validators.ge(0)
    )
    #: While the route in use is not the best, how soon the prober first looks for a better one (seconds). The
    #: interval then grows.
    upgrade_interval: float = attrs.field(
        default=UPGRADE_INTERVAL_SECONDS, kw_only=True, validator=attrs.validators.gt(0)
    )
    #: Directories with policy files, which can only restrict further what the policy of the machine allows.
    policy_directories: tuple[Path, ...] = attrs.field(default=(), kw_only=True, converter=_to_paths)
    #: Whether the client serves an application that ``hybridrelay run`` has started, which a policy may forbid.
    runs_application: bool = attrs.field(default=False, kw_only=True)
    #: The memory that the sessions may use for receive windows and for data that is being sent. None: one GiB, shared
    #: by all clients of the process.
    budget: Budget | None = attrs.field(default=None, kw_only=True)
    #: Stores a connection string with another key (while a key is rolled), an update, or a renewed identity, so that
    #: the next start uses it. By default, it is stored in the file that it was read from
    #: (`ConnectionString.file`), if there is one. None: it is only in memory, and the relay is told so.
    keep_string: KeepString | None = attrs.field(default=keep_in_own_file, kw_only=True)
    #: What the program would use after a restart, if that differs from `string`, because a client before this one has
    #: received something that could not be stored (`StringKeeper.origin`).
    origin: ConnectionString | None = attrs.field(default=None, kw_only=True, repr=False)
    #: Whether an identity that an issuer has signed is renewed at two thirds of its life.
    renews_identity: bool = attrs.field(default=True, kw_only=True)
    #: Uses a connection string with a renewed identity, in place of the earlier one: opens another client with it,
    #: and closes this one when its streams have ended. None: this client uses it for new streams itself.
    use_renewed: UseRenewed | None = attrs.field(default=None, kw_only=True)
    #: See `FloorOf`. Protects from earlier updates after a backup of the connection string was restored.
    update_floor: FloorOf | None = attrs.field(default=None, kw_only=True)
    #: The audit log of the program, which has to be open (`AuditLog.opened`). The relays are asked to keep its
    #: checkpoints. None: there is none.
    audit: AuditLog | None = attrs.field(default=None, kw_only=True)
