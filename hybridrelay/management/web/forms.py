"""Shows refused forms again, with the entered values, and an error beside each field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import attrs

from ..._value import Value
from ...http import Failure, RequestError
from ..problem_kinds import Problem
from ..problems import problem
from .failures import sentence
from .html import Child, Element, h
from .layout import View

__all__ = ["NOTHING_ENTERED", "Entered", "number_untrusted", "refused", "version_untrusted"]

#: A number as HTML defines it.
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
#: The statuses of refusals after which the same form can be sent again, corrected or later.
_CAN_BE_SENT_AGAIN = frozenset(
    kind.status for kind in (Problem.INVALID, Problem.EXISTS, Problem.PRECONDITION_FAILED, Problem.UNAVAILABLE)
)


@attrs.frozen
class Entered(Value):
    """The values that were entered in a form, and the errors, by the names of the fields."""

    values: Mapping[str, str] | None = None
    errors: Mapping[str, str] = attrs.field(factory=dict)

    def value(self, name: str, current: str) -> str:
        """Return the value that a field shows, which is `current` if the form was not sent."""
        return current if self.values is None else self.values.get(name, "")

    def error(self, name: str) -> str:
        """Return the error in a field; empty if there is none."""
        return self.errors.get(name, "")


NOTHING_ENTERED = Entered()
_NOT_EXPLAINED: Mapping[str, str] = {}


@attrs.frozen
class _Refusal(Value):
    """A refusal of a form that can be sent again."""

    failure: Failure
    entered: Entered
    #: The errors that belong to none of the fields.
    others: list[str]

    @property
    def is_outdated(self) -> bool:
        """Whether somebody else has changed the subject of the form since the form was shown."""
        return self.failure.status == Problem.PRECONDITION_FAILED.status

    def view(self, title: str, content: Child, *, place: str, parents: tuple[tuple[str, str], ...]) -> View:
        """Make the page that shows the form again.

        Args:
            title: the heading of the page.
            content: the form.
            place: the entry in the navigation to which the page belongs.
            parents: the pages above this one. The form was sent from the last of them.
        """
        return View(
            title=title,
            content=(self._message(parents[-1][0]), h("div", content, class_="card")),
            place=place,
            parents=parents,
            is_live=False,
            status=self.failure.status,
            headers=self.failure.headers,
        )

    def _message(self, back: str) -> Element:
        remedy, request_id = self.failure.members.get("remedy"), self.failure.members.get("requestId")
        text: Child
        if self.is_outdated:
            text = [
                "Somebody else has changed this since you opened the form, so nothing was saved. ",
                "What you have entered is below. If you save it now, it replaces the other change. ",
                h("a", "Show the current state", href=back),
            ]
        elif self.entered.errors:
            text = "Nothing was saved. Correct what is marked below."
        else:
            text = [
                f"Nothing was saved. {sentence(self.failure.detail)}",
                f" What to do: {remedy}." if remedy else None,
            ]
        return h(
            "div",
            h("p", text),
            h("ul", [h("li", one) for one in self.others]) if self.others else None,
            h("p", f"Request {request_id}", class_="hint") if request_id else None,
            class_="message bad",
            role="alert",
        )


def refused(
    exc: RequestError, form: Mapping[str, str], fields: Collection[str], explained: Mapping[str, str] = _NOT_EXPLAINED
) -> _Refusal:
    """Return the refusal of a form, to show it again.

    Args:
        exc: the refusal.
        form: the values that were sent.
        fields: the names of the form's fields, which are also those of the API.
        explained: the texts about valid values that are shown instead of the API's errors, by field.

    Raises:
        RequestError: `exc`, if sending the form again would not help.
    """
    if exc.failure.status not in _CAN_BE_SENT_AGAIN:
        raise exc
    found, others = exc.failure.members.get("errors"), []
    errors: dict[str, str] = {}
    for error in found if isinstance(found, list) else []:
        name = next((part for part in str(error.get("pointer", "")).split("/") if part in fields), None)
        if name is None:
            others.append(sentence(str(error.get("detail", ""))))
        else:
            errors.setdefault(name, sentence(explained.get(name, str(error.get("detail", "")))))
    return _Refusal(exc.failure, Entered(form, errors), others)


def number_untrusted(text: str) -> float:
    """Parse a number that was entered. What Python accepts besides the numbers of HTML (digits of other scripts,
    underscores, blanks) would mean something else to a browser.

    Raises:
        ValueError: it is not a number.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number")
    return float(text)


def version_untrusted(form: Mapping[str, str]) -> int:
    """Return the version that the subject of a form had when the form was shown, from its hidden field.

    The change is refused with status 412 if the subject has a different version by now.

    Raises:
        RequestError: 400, the form has no version, or it is malformed.
    """
    version = form.get("version", "")
    if not re.fullmatch(r"[0-9]{1,18}", version):
        raise problem(Problem.INVALID, "the form has no version")
    return int(version)
