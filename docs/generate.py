"""Generates `docs/state-machines.md` from the transition tables in the code, and puts the files of `docs/recipes`
into `docs/embedding.md`.

``python docs/generate.py`` writes the pages; ``python docs/generate.py --check`` exits with 1 if one is out of date.
"""

from __future__ import annotations

import argparse
import enum
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from hybridrelay.client import lifecycle
from hybridrelay.client.ingress import socks
from hybridrelay.connectivity import selection, update_machine
from hybridrelay.connector import target_health
from hybridrelay.connector.registration import states as registration
from hybridrelay.mux import bridging
from hybridrelay.protocol import control_states, states
from hybridrelay.relay.core import control_channel_states, join, quotas, rendezvous_states

PAGE = Path(__file__).with_name("state-machines.md")
#: A page in which each block of code after ``<!-- recipe: NAME -->`` is the file ``recipes/NAME.py``.
EMBEDDING = Path(__file__).with_name("embedding.md")
RECIPES = Path(__file__).with_name("recipes")
_RECIPE = re.compile(r"(<!-- recipe: (\w+) -->\n```python\n).*?(```\n)", re.DOTALL)

INTRODUCTION = """\
# State machines

This page is generated from the transition tables in the code by `python docs/generate.py`, and a test checks that it
is current. Each arrow is labelled with the inputs that cause the transition; where a transition ends something, the
outcome follows after a slash. An input that has no arrow in a state is an error or is ignored there; the module says
which. Inputs that leave the state as it is are not shown.
"""

StateT_co = TypeVar("StateT_co", bound=enum.Enum, covariant=True)
InputT_co = TypeVar("InputT_co", bound=enum.Enum, covariant=True)


@attrs.frozen
class Machine(Generic[StateT_co, InputT_co]):
    """One transition table, and its description."""

    title: str
    module: str
    description: str
    #: (state, input) to the next state, or to the next state and an outcome (None: not an end).
    table: Mapping[tuple[StateT_co, InputT_co], object]
    initial: tuple[StateT_co, ...]


MACHINES = (
    Machine(
        "Stream: opening",
        "hybridrelay.protocol.states",
        "Whether the stream has been answered. The side that opens it begins in AWAITING, the other one in OFFERED. "
        "An abort also moves the machines of both directions to ABORTED.",
        states.OPENING,
        (states.Opening.AWAITING, states.Opening.OFFERED),
    ),
    Machine(
        "Stream: sending direction",
        "hybridrelay.protocol.states",
        "From the first byte that the application sends to the moment when FIN is written.",
        states.SENDING,
        (states.Sending.OPEN,),
    ),
    Machine(
        "Stream: receiving direction",
        "hybridrelay.protocol.states",
        "From the first byte that the peer sends to its FIN.",
        states.RECEIVING,
        (states.Receiving.OPEN,),
    ),
    Machine(
        "Bridge: from the TCP connection into the stream",
        "hybridrelay.mux.bridging",
        "What happens to the bytes that the TCP connection sends. The module describes how a bridge ends.",
        bridging.OUTGOING,
        (bridging.Outgoing.OPEN,),
    ),
    Machine(
        "Bridge: from the stream into the TCP connection",
        "hybridrelay.mux.bridging",
        "What happens to the bytes that the peer sends.",
        bridging.INCOMING,
        (bridging.Incoming.AWAITING,),
    ),
    Machine(
        "Control channel at the relay",
        "hybridrelay.relay.core.control_channel_states",
        "From the first message of a connector or client to the end of its control channel. A valid token leads to "
        "AUTHORIZED; requests that are refused leave the state as it is.",
        control_channel_states.TRANSITIONS,
        (control_channel_states.ChannelState.NEW,),
    ),
    Machine(
        "Join",
        "hybridrelay.relay.core.join",
        "How the relay finds a listener for a client that wants to join.",
        join.TRANSITIONS,
        (next(iter(join.JoinState)),),
    ),
    Machine(
        "Rendezvous",
        "hybridrelay.relay.core.rendezvous_states",
        "How the relay brings the two data channels of one join together.",
        rendezvous_states.TRANSITIONS,
        (rendezvous_states.State.OFFERED,),
    ),
    Machine(
        "Quota",
        "hybridrelay.relay.core.quotas",
        "How much of a limit of a hybrid connection, or of the relay, is used. The inputs say how much is used now: "
        "*little* is less than seven tenths, *much* is four fifths or more, and *all* is the whole limit. NEAR and "
        "REACHED publish an event.",
        quotas.TRANSITIONS,
        (quotas.Level.FREE,),
    ),
    Machine(
        "Connector at one relay",
        "hybridrelay.connector.registration",
        "Whether the connector has a control channel at a relay.",
        registration.PHASES,
        (registration.Phase.IDLE,),
    ),
    Machine(
        "Connector: one control channel",
        "hybridrelay.connector.registration",
        "There can be several while the connector moves to a better route: the successor takes over the "
        "registrations before the current channel is closed.",
        registration.CHANNELS,
        (registration.ChannelState.OPENING,),
    ),
    Machine(
        "Connector: the health of a target",
        "hybridrelay.connector.target_health",
        "What a connector tells its relays about a target. The module lists the rules, including those for checks.",
        target_health.TRANSITIONS,
        (control_states.TargetHealth.UNKNOWN,),
    ),
    Machine(
        "Session at the client",
        "hybridrelay.client.lifecycle",
        "From the search for a connector to the one outcome of the session. The rules are listed in `machine.py`, "
        "the outcomes in [Events](events.md#how-a-session-ends).",
        lifecycle.TRANSITIONS,
        (lifecycle.State.SEARCHING,),
    ),
    Machine(
        "Front: SOCKS5",
        "hybridrelay.client.ingress.socks",
        "One connection of an application to a SOCKS5 front, until the front knows what it wants. Everything that "
        "has no arrow is refused, and ends the connection.",
        socks.TRANSITIONS,
        (socks.SocksState.METHODS,),
    ),
    Machine(
        "Prober: one step of a route",
        "hybridrelay.connectivity.selection",
        "A step tries one port. The rules that start and stop steps, and decide, are listed in the module.",
        selection.TRANSITIONS,
        (selection.StepState.WAITING,),
    ),
    Machine(
        "Update of a connection string",
        "hybridrelay.connectivity.update_machine",
        "What a connector or client does with an update that a relay delivers. The rules are listed in the module.",
        update_machine.TRANSITIONS,
        (update_machine.MachineState.IDLE,),
    ),
)


def diagram(machine: Machine[enum.Enum, enum.Enum]) -> str:
    """The machine as a Mermaid state diagram."""
    members = {state: f"s{index}" for index, state in enumerate(_states(machine))}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{_label(state)}" as {name}' for state, name in members.items()]
    lines += [f"    [*] --> {members[state]}" for state in machine.initial]
    arrows: dict[tuple[enum.Enum, enum.Enum], list[str]] = {}
    for (state, cause), target in machine.table.items():
        following, outcome = _target(target)
        if following is not state:
            text = _label(cause) + (f" / {_label(outcome)}" if outcome is not None else "")
            arrows.setdefault((state, following), []).append(text)
    lines += [
        f"    {members[state]} --> {members[following]}: {', '.join(texts)}"
        for (state, following), texts in arrows.items()
    ]
    leaving = {state for state, _ in arrows}
    reached = {following for _, following in arrows}
    lines += [f"    {name} --> [*]" for state, name in members.items() if state in reached - leaving]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    sections = (
        f"## {machine.title}\n\n{machine.description} Module: `{machine.module}`.\n\n"
        f"```mermaid\n{diagram(machine)}\n```\n"
        for machine in MACHINES
    )
    return "\n".join([INTRODUCTION, *sections])


def embedding_page() -> str:
    """The page about embedding, with the recipes as they are now."""

    def with_recipe(found: re.Match[str]) -> str:
        return found[1] + (RECIPES / f"{found[2]}.py").read_text(encoding="utf-8") + found[3]

    return _RECIPE.sub(with_recipe, EMBEDDING.read_text(encoding="utf-8"))


def _states(machine: Machine[enum.Enum, enum.Enum]) -> list[enum.Enum]:
    """In the order in which the enumeration names them, without those that no transition touches."""
    used = {state for state, _ in machine.table} | {_target(target)[0] for target in machine.table.values()}
    return [state for state in type(machine.initial[0]) if state in used]


def _target(target: object) -> tuple[enum.Enum, enum.Enum | None]:
    following, outcome = target if isinstance(target, tuple) else (target, None)
    if not isinstance(following, enum.Enum) or not isinstance(outcome, enum.Enum | None):
        raise TypeError(f"{target!r} is neither a state nor a state and an outcome")
    return following, outcome


def _label(member: enum.Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate docs/state-machines.md, and the recipes in embedding.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is out of date")
    arguments = parser.parse_args()
    pages = {PAGE: page(), EMBEDDING: embedding_page()}
    if arguments.check:
        return int(any(not file.exists() or file.read_text(encoding="utf-8") != text for file, text in pages.items()))
    for file, text in pages.items():
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
