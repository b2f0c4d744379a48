"""Every event: unique, documented, and fit for the log."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import hybridrelay
from hybridrelay.cli.logs import JSONFormatter, LineFormatter
from hybridrelay.events import Event, Level, LogSubscriber, all_events, event_fields, event_text
from hybridrelay.events.catalogue import reference

from .examples import example

DOCS = Path(__file__).parents[2] / "docs" / "events.md"

#: Azure Relay's names, as its documentation of diagnostic logs lists them.
OPERATIONS = {
    "listener.registered": "NewListenerRegistered",
    "listener.left": "ListenerUnregistered",
    "listener.silent": "ListenerUnresponsive",
    "sender.joining": "NewSenderRegistering",
    "rendezvous.joined": "SenderListenerConnectionEstablished",
    "rendezvous.timeout": "ListenerAcceptingConnectionTimeout",
    "rendezvous.ended": "SenderConnectionClosed",
    "token.invalid": "InvalidSasToken",
    "token.refused": "AuthorizationFailed",
    "token.expired": "ListenerClosingFromExpiredToken",
    "stream.not-connected": "ListenerRejectedConnection",
}


def test_names_are_unique() -> None:
    names = [event.name for event in all_events()]
    assert sorted(names) == sorted(set(names))


def test_operations_are_those_of_azure() -> None:
    assert {event.name: event.operation for event in all_events() if event.operation} == OPERATIONS


def test_the_docs_are_current() -> None:
    text = DOCS.read_text()
    assert reference() in text, (
        "replace the tables in docs/events.md with the output of `python -m hybridrelay.events`"
    )
    # The page explains the events, too: it does not consist of its tables alone.
    assert text.startswith("# Events\n")
    assert "## How a session ends\n" in text


def _name(node: ast.expr | None) -> str | None:
    """The last part of a name: ``X`` for ``X`` and for ``events.X``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _constructed(source: str) -> Iterator[str | None]:
    """The names that are called, or assigned in order to be called; not those that are only imported or compared."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=function):
                yield _name(function)
            case ast.Assign(value=value):
                yield _name(value)
            case ast.IfExp(body=body, orelse=orelse):
                yield from (_name(body), _name(orelse))


def test_every_event_is_published_by_something() -> None:
    package = Path(hybridrelay.__file__).parent
    sources = [path for path in package.rglob("*.py") if package / "events" not in path.parents]
    made = {name for path in sources for name in _constructed(path.read_text(encoding="utf-8"))}
    assert [event.__name__ for event in all_events() if event.__name__ not in made] == []


def test_an_event_that_is_only_imported_and_compared_is_not_published() -> None:
    source = "from hybridrelay.events import X\ndef f(event: X) -> bool:\n    return isinstance(event, X)\n"
    assert "X" not in set(_constructed(source))
    assert "X" in set(_constructed(source + "stream.publish(X())\n"))


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
class TestEveryEvent:
    """What holds for each class."""

    def test_an_event_has_a_name_a_level_and_a_summary(self, event: type[Event]) -> None:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*(\.[a-z]+(-[a-z]+)*)+", event.name)
        assert isinstance(event.level, Level)
        assert event.summary[0].isupper()
        assert not event.summary.endswith(".")
        assert event.__doc__

    def test_it_is_frozen_and_compares_by_value(self, event: type[Event]) -> None:
        made = example(event)
        assert made == example(event) or "exception" in attrs.fields_dict(event)
        for field in attrs.fields(event):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(made, field.name, None)

    def test_it_can_be_logged(self, event: type[Event], caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        made = example(event)
        LogSubscriber()(made)

        (record,) = caplog.records
        assert record.levelno == event.level
        assert event_text(made) in LineFormatter().format(record)
        content = json.loads(JSONFormatter().format(record))
        assert content["event"] == event.name
        assert content.get("operation") == event.operation
        shown = {**content.get("fields", {}), **content}
        for name, value in event_fields(made).items():
            assert shown["activityId" if name == "activity_id" else name] == value
