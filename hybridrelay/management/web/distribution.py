"""The parts of a hybrid connection's page about keys and changes that are on their way to programs: claims, key rolls
and updates. Claims can be revoked here. Claims, rolls and updates begin on the pages in `rolling` and `sealed`.
"""

from __future__ import annotations

from ...http import RequestError, Response
from ...security import ManagementRole
from ..claim_values import ClaimPage, ClaimValue
from ..problem_kinds import Problem
from ..problems import problem
from ..roll_values import ProgramValue, RollValue
from ..update_values import RecipientValue, UpdatePage, UpdateValue
from ..values import ConnectionValue
from .confirming import confirmation
from .html import Child, Element, h
from .layout import View, redirect
from .messages import done
from .page import Page
from .parts import api_line, badge, button, empty, identity, linked, post_form, section, table
from .paths import parents_of, path_of
from .sealed import claim_path, update_path
from .shown import moment, name_of, segment
from .visit import Visit

__all__ = ["DISTRIBUTION_PAGES", "distribution_sections"]

#: How many claims are listed. The API lists all of them.
_SHOWN_CLAIMS = 50
_KINDS = {"open": "warn", "taken": "good", "expired": "plain", "revoked": "plain"}
_STATES = {
    "asked": "has not answered",
    "memory": "uses it, but has not stored it",
    "waiting": "does not use it yet",
    "refused": "refuses it",
}


async def distribution_sections(visit: Visit, found: ConnectionValue) -> list[Child]:
    """Make the parts of the page."""
    name = found.name
    claims = await visit.get("listClaims", ClaimPage, name=name)
    updates = await visit.get("listUpdates", UpdatePage, name=name)
    rolls = {
        rule.name: roll
        for rule in found.authorization_rules
        if (roll := await _roll(visit, name, rule.name)) is not None
    }
    return [
        section(
            "Claims",
            _claims(visit, name, claims),
            api_line(visit, f"{_api(name)}/claims"),
            id_="claims",
            note="Connection strings that wait for the machines that are to have them. Each is delivered once.",
            actions=_begin(visit, "Create a claim", claim_path(name)),
        ),
        section(
            "Key rolls",
            [_one_roll(rule, roll, f"{_api(name)}/authorizationRules/{segment(rule)}/roll")
             for rule, roll in rolls.items()]
            or empty(
                "No key is being rolled.",
                "To give programs a new key automatically, roll a key of a rule.",
            ),
            api_line(visit, *(f"{_api(name)}/authorizationRules/{segment(rule)}/roll" for rule in rolls))
            if rolls
            else None,
            id_="rolls",
            note="Programs that use the old key get the new one. The old one is revoked when all of them have it.",
        ),
        section(
            "Updates",
            _updates(name, updates),
            api_line(visit, f"{_api(name)}/updates"),
            id_="updates",
            note="Changes of connection strings, which the authority has signed. The relay cannot read them.",
            actions=_begin(visit, "Push an update", update_path(name)),
        ),
    ]  # fmt: skip


def _begin(visit: Visit, text: str, path: str) -> Child:
    """Make the button that leads to a page with a command; None if the caller may not see that page. It is for
    administrators who are not limited to one hybrid connection, so that a key of the latter does not suffice."""
    if not visit.is_admin or visit.caller.scope.only is not None:
        return None
    return h("a", text, href=path, class_="button")


def _api(name: str) -> str:
    return f"/v1/hybridConnections/{segment(name)}"


async def _roll(visit: Visit, name: str, rule: str) -> RollValue | None:
    """Return the roll of a rule's key; None if there is none."""
    try:
        return await visit.get("getRoll", RollValue, name=name, rule=rule)
    except RequestError as exc:
        if exc.failure.status == Problem.NOT_FOUND.status:
            return None
        raise


# --- claims


def _claims(visit: Visit, name: str, page: ClaimPage) -> Child:
    if not page.value:
        return empty(
            "There is no claim.",
            f"A claim brings a connection string to its machine: hybridrelay claims create {name}.",
        )
    rows = [
        [
            identity(one.id),
            name_of(one.note) if one.note else "",
            [badge(one.state.capitalize(), _KINDS[one.state]), _alarm(one)],
            moment(one.created_at),
            moment(one.expires_at),
            [moment(one.taken_at), f" from {one.taken_by}"] if one.taken_at is not None else "",
            h("a", "Revoke", href=f"{path_of(name)}/claims/{segment(one.id)}/revoke",
              class_="button quiet danger inline", aria_label=f"Revoke claim {one.id[:12]}")
            if visit.is_admin and one.state == "open" else None,
        ]
        for one in page.value[:_SHOWN_CLAIMS]
    ]  # fmt: skip
    every = h("a", "The API lists all of them", href=f"{_api(name)}/claims")
    return [
        table("Claims", ("Claim", "Note", "State", "Created", "Expires", "Taken", ""), rows),
        h("p", f"These are the latest {_SHOWN_CLAIMS}. ", every, ".", class_="note")
        if len(page.value) > _SHOWN_CLAIMS
        else None,
    ]


def _alarm(one: ClaimValue) -> Child:
    if not one.taken_again:
        return None
    return [
        " ",
        badge("Alarm", "bad"),
        h("p", "Asked for again at ", moment(one.taken_again_at), f" from {one.taken_again_by}: somebody else has "
          "the code. Regenerate the key of its rule, and deny its label.", class_="hint"),
    ]  # fmt: skip


async def _open_claim(visit: Visit) -> ClaimValue:
    page = await visit.get("listClaims", ClaimPage, name=visit.param("name"))
    for one in page.value:
        if one.id == visit.param("claim") and one.state == "open":
            return one
    raise problem(Problem.NOT_FOUND, "there is no open claim with this id")


async def _confirm_revoke(visit: Visit) -> View:
    name, claim = visit.param("name"), await _open_claim(visit)
    action = f"{path_of(name)}/claims/{segment(claim.id)}/revoke"
    facts = (
        ("Hybrid connection", name_of(name)),
        ("Claim", h("code", claim.id)),
        ("Note", name_of(claim.note) if claim.note else "none"),
        ("Expires", moment(claim.expires_at)),
    )
    return confirmation(
        "Revoke this claim?",
        post_form(action, button("Revoke the claim", kind="danger")),
        h("dl", [h("div", h("dt", what), h("dd", value)) for what, value in facts], class_="facts"),
        h("p", "Its content is deleted, and from then on its code is useless."),
        parents=parents_of(name),
    )


async def _revoke(visit: Visit) -> Response:
    name = visit.param("name")
    await visit.perform("revokeClaim", name=name, claim=visit.param("claim"))
    return redirect(done(path_of(name), "claim-revoked"))


# --- rolls and updates


def _one_roll(rule: str, roll: RollValue, href: str) -> Element:
    have = f"{roll.kept} of {roll.programs} programs have it"
    if roll.ended_at is not None:
        return h(
            "div",
            h("p", h("b", name_of(rule)), f": the new key is the {roll.slot} one; ", linked(have, href),
              ". The old one was revoked ", moment(roll.ended_at), ". ",
              "The others fail after a restart, unless the new key is in the connection strings that they then read."
              if roll.missing else None),
            _not_counted(roll.started_at, roll.seen_since, is_crowded=roll.is_crowded),
            _missing(f"Programs without the new key of {rule}", roll.missing),
        )  # fmt: skip
    end = "at" if roll.wait_for_grace or roll.is_crowded else "when all have it, at the latest at"
    return h(
        "div",
        h("p", h("b", name_of(rule)), f": the new key is the {roll.slot} one, since ", moment(roll.started_at), "; ",
          linked(have, href), f". The old one is revoked {end} ", moment(roll.ends_at), "."),
        _not_counted(roll.started_at, roll.seen_since, is_crowded=roll.is_crowded),
        _missing(f"Programs without the new key of {rule}", roll.missing),
    )  # fmt: skip


def _updates(name: str, page: UpdatePage) -> Child:
    if not page.value:
        return empty(
            "No update has been pushed.",
            f"An update changes the target, relays or pins of running programs: hybridrelay updates push {name}.",
        )
    rows = [
        [
            _recipients(one),
            str(one.sequence),
            name_of(one.note) if one.note else "",
            moment(one.created_at),
            moment(one.expires_at),
            linked(f"{one.kept} of {one.recipients}", f"{_api(name)}/updates"),
        ]
        for one in page.value
    ]
    columns = ("For", "Sequence", "Changes", "Pushed", "Expires", "Programs that have it")
    first = min(page.value, key=lambda one: one.created_at)
    return [
        table("Updates", columns, rows, numeric=(1,)),
        _not_counted(first.created_at, first.seen_since, is_crowded=any(one.is_crowded for one in page.value)),
        [
            _missing(f"Programs without update {one.sequence} for {_recipients(one)}", one.missing)
            for one in page.value
            if one.missing
        ],
    ]


def _not_counted(began_at: float, seen_since: float | None, *, is_crowded: bool) -> Child:
    restarted = crowded = None
    if seen_since is not None and seen_since > began_at:
        restarted = h(
            "p", "The relay was started at ", moment(seen_since),
            ". Programs that have not connected since then are not counted.", class_="note",
        )  # fmt: skip
    if is_crowded:
        text = "The relay had no room to note more programs. The others were given it too, but are not counted."
        crowded = h("p", text, class_="note")
    return [restarted, crowded]


def _recipients(one: UpdateValue) -> str:
    if one.serial:
        return f"the identity {one.serial[:12]}"
    return "connectors" if one.role == "connector" else "applications"


def _missing(caption: str, missing: tuple[ProgramValue, ...] | tuple[RecipientValue, ...]) -> Child:
    if not missing:
        return None
    rows = [
        [
            identity(one.instance),
            one.role,
            one.address,
            _STATES.get(one.state, one.state),
            name_of(one.detail) if one.detail else "",
            "yes" if _is_connected(one) else "no",
        ]
        for one in missing
    ]
    return [
        h("h3", caption),
        table(caption, ("Instance", "Program", "Address", "State", "Detail", "Connected"), rows),
    ]


def _is_connected(one: ProgramValue | RecipientValue) -> bool:
    return one.is_connected if isinstance(one, ProgramValue) else one.departed_at is None


_PATH = "/connections/{name}/claims/{claim}/revoke"

DISTRIBUTION_PAGES: tuple[Page, ...] = (
    Page(id="confirmClaimRevocation", method="GET", role=ManagementRole.ADMIN, path=_PATH, show=_confirm_revoke),
    Page(id="sendClaimRevocation", method="POST", path=_PATH, show=_revoke),
)
