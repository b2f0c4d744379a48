"""``hybridrelay run``: runs an application, or says in which ways this machine allows it."""

from __future__ import annotations

import argparse
import platform
import sys

from ...errors import ConfigurationError
from .. import exits, output


def run(args: argparse.Namespace) -> int:
    """Run the application, and return its exit code; or end by the signal that has ended it."""
    if sys.platform != "linux":
        raise ConfigurationError(
            "'run' needs Linux", remedy="use 'hybridrelay forward' with a local port for each hybrid connection"
        )
    if args.check:
        return _check(as_json=args.json)
    if not args.application:
        args.parser.error("no application is given: hybridrelay run ... -- APP ARGS")
    from ..serving.first_process import run_application  # imported here, because other systems cannot

    return run_application(args)


def _check(*, as_json: bool) -> int:
    """Say which ways this machine allows. Returns `exits.FAILED` if it allows none."""
    from ...client.application.checking import find_abilities  # imported here, because other systems cannot
    from ...client.application.networks import AUTOMATIC, refusal_of

    abilities = find_abilities()
    refusals = {network: refusal_of(network, (), abilities) for network in AUTOMATIC}
    usable = [network for network, refusal in refusals.items() if refusal is None]
    if as_json:
        output.say_json(
            {
                "kernel": platform.release(),
                "machine": platform.machine(),
                "default": usable[0].value if usable else None,
                "firstPort": abilities.first_port,
                "networks": [
                    {
                        "network": network.value,
                        "usable": refusal is None,
                        "step": None if refusal is None else refusal.step,
                        "detail": None if refusal is None else refusal.text,
                        "remedy": None if refusal is None else refusal.remedy,
                    }
                    for network, refusal in refusals.items()
                ],
            }
        )
        return exits.OK if usable else exits.FAILED
    palette = output.Palette(sys.stdout)
    for network, refusal in refusals.items():
        state = palette.green("usable") if refusal is None else palette.red("not usable")
        output.say(f"{network.value:<10} {state}: {_WHAT[network.value]}")
        if refusal is not None:
            output.say(f"           {refusal}\n           try: {refusal.remedy}")
    if abilities.mounts is None and (refusal := abilities.interception) is not None:
        output.say(
            f"With --network host, this machine does not allow IP addresses, or ports below {abilities.first_port}."
        )
    return exits.OK if usable else exits.FAILED


#: What an application gets, by the value of ``--network``.
_WHAT = {
    "host": "its own hosts file, and the network of the machine",
    "intercept": "redirected connections, and the network of the machine",
    "private": "a network of its own, with nothing but the published hosts",
}
