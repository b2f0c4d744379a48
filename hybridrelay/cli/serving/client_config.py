"""The configuration of clients of ``forward`` and ``run``, which have the same options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...abc import Dialer
from ...client import ClientConfig
from ...security import ConnectionString
from ..key_keeping import keeper_of
from ..update_marks import UpdateMarks
from .configuration import Configuration
from .reloads import Reloads

if TYPE_CHECKING:
    from ...audit import AuditLog

__all__ = ["client_config"]


def client_config(
    string: ConnectionString,
    args: argparse.Namespace,
    configuration: Configuration,
    marks: UpdateMarks,
    *,
    dialer: Dialer | None,
    audit: AuditLog | None,
    reloads: Reloads,
    runs_application: bool = False,
) -> ClientConfig:
    """Make the configuration of the client for one connection string.

    Args:
        string: the connection string.
        args: the options of the command.
        configuration: the files of the command, in which new keys and updates are stored.
        marks: the updates that were used on this machine.
        dialer: opens connections to the relays.
        audit: the audit log; None: there is none.
        reloads: uses renewed identities.
        runs_application: whether ``run`` has started the application.
    """
    return ClientConfig(
        string,
        mode=args.mode,
        dialer=dialer,
        resume_deadline=args.resume_deadline,
        upgrade_interval=args.upgrade_interval,
        keep_string=keeper_of(configuration.files, marks, configuration.copies),
        use_renewed=reloads.use_renewed,
        update_floor=marks.floor,
        open_patience=args.open_patience,
        policy_directories=args.policy_dirs,
        runs_application=runs_application,
        audit=audit,
    )
