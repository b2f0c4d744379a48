"""What a connector or forward reads before it serves anything."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import attrs

from .._value import Value
from ..security import Role
from .proxies import ChangingDialer, make_commands
from .serving.configuration import Configuration
from .serving.plan import Wanted, make_plan
from .update_marks import UpdateMarks

if TYPE_CHECKING:
    from ..connectivity.commands import Commands

__all__ = ["Beginning"]


@attrs.frozen
class Beginning(Value):
    """The configuration with which a program begins."""

    configuration: Configuration
    #: Runs the command of ``--exec-command``.
    commands: Commands
    dialer: ChangingDialer
    #: The last updates that were used on this machine.
    marks: UpdateMarks
    #: What is to be served.
    wanted: tuple[Wanted, ...]

    @classmethod
    def read(cls, args: argparse.Namespace, role: Role) -> Beginning:
        """Read the configuration. With ``--claim-file``, the claim is then taken, if that has not been done: whatever
        does not need the connection string is checked first.

        Raises:
            HybridRelayError: something cannot be used, or the claim cannot be taken.
        """
        configuration = Configuration(args, role)
        commands = make_commands(args)
        dialer = ChangingDialer(configuration.dial_options(), commands)
        if args.claim_file is not None:
            from .claim_taking import take_at_first_start  # imported here, because it is rarely needed

            _check(args, role, configuration)
            take_at_first_start(args)
        marks = UpdateMarks.of_user()
        wanted = configuration.load(marks)
        make_plan({}, wanted)  # refuses what cannot be served together
        return cls(configuration, commands, dialer, marks, wanted)


def _check(args: argparse.Namespace, role: Role, configuration: Configuration) -> None:
    """Check what does not need the connection string. A claim is delivered once, and nobody should have to wonder
    whether a start that has failed has taken it.

    Raises:
        ConfigurationError: an option, or a file that it names, cannot be used.
    """
    from ..policy import PolicyFile, WatchedPolicy  # imported here, because it is rarely needed here
    from .auditing import ProgramAudit

    ProgramAudit(args)
    WatchedPolicy(args.policy_dirs)
    if role is Role.APPLICATION:
        configuration.fronts()
    elif args.deny_list is not None:
        PolicyFile(args.deny_list)
