"""Both implementations of `Registry`: the same results, errors and protection against changes by others."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.administration import Registry, StoreRegistry, create_claim, regenerate_key, revoke_claim
from hybridrelay.errors import ConfigurationError, ManagementError, OutcomeUnknown
from hybridrelay.management import ApiRegistry, LocalAddress, ManagementClient, blocking_client
from hybridrelay.relay import RelayRecord, SQLiteStore
from hybridrelay.relay.claims import ClaimState
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.store.store import ChangedMeanwhile, NameTaken, NotFound
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    KeySlot,
    ManagementRole,
    Right,
    Rule,
    Secret,
    generate_key,
    key_fingerprint,
)

from ..cli.served_relay import served
from ..wrapped_streams import WrappedStream

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

PRIMARY, SECONDARY = KeySlot
RECORD = RelayRecord(
    "team/orders",
    ["relay.example.com"],
    [
        Rule.generate("application", {Right.SEND}),
        attrs.evolve(Rule.generate("connector", {Right.LISTEN}), primary=None),
    ],
)


@attrs.frozen
class Scene:
    """A registry, and the store on which it works."""

    registry: Registry
    store: SQLiteStore


@pytest.fixture(params=["store", "api"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    state = tmp_path / "state"
    with StoreRegistry(state_dir=state, create=True) as local:
        local.prepare(now=time.time())
        local.import_(RECORD)
        with SQLiteStore.open(state) as store:
            if request.param == "store":
                yield Scene(local, store)
            else:
                client = ManagementClient(LocalAddress(state))
                with served(state, over_tcp=False), blocking_client(client) as blocking:
                    yield Scene(ApiRegistry(blocking), store)


def test_the_limits_in_force(scene: Scene) -> None:
    known = scene.registry.connection("team/orders")
    assert scene.registry.limits_in_force("team/orders") == Limits(listeners=25, end_at_limit=False)
    scene.registry.change(known, quota=Quota("basic", Limits(sessions=7)))
    in_force = scene.registry.limits_in_force("team/orders")
    edition = scene.registry.editions().by_name["basic"]
    assert in_force.sessions == 7
    assert in_force == scene.registry.editions().limits(Quota("basic", Limits(sessions=7)))
    assert edition.limits != Limits()
    with pytest.raises(NotFound, match="there is no hybrid connection 'others'"):
        scene.registry.limits_in_force("others")


def test_the_registry_reads_what_the_relay_has(scene: Scene) -> None:
    registry = scene.registry
    known = registry.connection("team/orders")
    assert registry.find("team/orders") == known
    assert registry.connections() == (known,)
    assert known.differences(RECORD) == ()
    assert known.version == scene.store.get("team/orders").version
    assert [(rule.name, rule.valid_keys) for rule in known.rules] == [
        ("application", (PRIMARY, SECONDARY)),
        ("connector", (SECONDARY,)),
    ]
    for rule in RECORD.rules:
        assert registry.rule_with_keys("team/orders", rule.name) == rule
    assert registry.find("others") is None
    for read in (registry.connection, lambda name: registry.rule_with_keys(name, "application")):
        with pytest.raises(NotFound, match="there is no hybrid connection 'others'"):
            read("others")
    with pytest.raises(NotFound, match="no rule 'nobody'") as caught:
        registry.rule_with_keys("team/orders", "nobody")
    assert "application, connector" in str(caught.value.remedy)
    assert registry.relay().pin == registry.prepare(now=0).pin


def test_the_differences_of_two_records_are_named(scene: Scene) -> None:
    known = scene.registry.connection("team/orders")
    application, connector = RECORD.rules
    for changes, expected in (
        ({"hosts": ("b.example",)}, ("endpoint",)),
        ({"rules": (application,)}, ("rules",)),
        ({"rules": (application.with_key(PRIMARY, generate_key()), connector)}, ("keys",)),
        ({"rules": (application, connector.with_key(PRIMARY, generate_key()))}, ("keys",)),
    ):
        assert known.differences(attrs.evolve(RECORD, **changes)) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda registry, known: registry.change(known, hosts=["b.example"]),
        lambda registry, known: registry.change(known, disabled=True),
        lambda registry, known: registry.put_rule(known, "application", {Right.MANAGE}),
        lambda registry, known: registry.delete_rule(known, "application"),
        lambda registry, known: registry.delete(known),
    ],
    ids=["hosts", "disabled", "rights", "rule", "connection"],
)
def test_what_another_administrator_has_changed_stays(scene: Scene, change: Callable[..., object]) -> None:
    known = scene.registry.connection("team/orders")
    scene.store.change("team/orders", hosts=["a.example"])
    before = scene.store.get("team/orders")
    with pytest.raises(ChangedMeanwhile):
        change(scene.registry, known)
    assert scene.store.get("team/orders") == before
    change(scene.registry, scene.registry.connection("team/orders"))
    assert scene.store.snapshot().get("team/orders") != before


def test_a_rule_that_was_added_meanwhile_keeps_its_rights(scene: Scene) -> None:
    known = scene.registry.connection("team/orders")
    scene.store.put_rule("team/orders", "new", {Right.LISTEN})
    with pytest.raises(ChangedMeanwhile):
        scene.registry.put_rule(known, "new", {Right.SEND})
    assert scene.store.rule("team/orders", "new").rights == {Right.LISTEN}


def test_keys_change_only_from_the_generation_that_is_known(scene: Scene) -> None:
    registry = scene.registry
    rule = registry.connection("team/orders").rule("application")
    generation, key = rule.keys[PRIMARY].generation, generate_key()
    registry.regenerate_key("team/orders", "application", PRIMARY, key, generation=generation)
    assert scene.store.rule("team/orders", "application").primary == key
    changes: list[Callable[[], None]] = [
        lambda: registry.regenerate_key("team/orders", "application", PRIMARY, generate_key(), generation=generation),
        lambda: registry.revoke_key("team/orders", "application", PRIMARY, generation=generation),
        lambda: registry.revoke_key("team/orders", "application", PRIMARY, generation=0),
    ]
    for change in changes:
        with pytest.raises(ChangedMeanwhile):
            change()
    assert registry.connection("team/orders").rule("application").fingerprint(PRIMARY) == key_fingerprint(key)
    current = registry.connection("team/orders").rule("application").keys[PRIMARY].generation
    registry.revoke_key("team/orders", "application", PRIMARY, generation=current)
    assert registry.connection("team/orders").rule("application").valid_keys == (SECONDARY,)
    registry.regenerate_key("team/orders", "application", PRIMARY, key, generation=0)
    known = registry.connection("team/orders").rule("application").keys[SECONDARY].generation
    with pytest.raises(ConfigurationError, match="already"):
        registry.regenerate_key("team/orders", "application", SECONDARY, key, generation=known)


def test_a_name_that_is_taken(scene: Scene) -> None:
    before = scene.store.list()
    with pytest.raises(NameTaken):
        scene.registry.import_(RECORD)
    assert scene.store.list() == before


def test_what_is_refused_is_not_added_even_if_the_name_is_free_by_now(scene: Scene) -> None:
    known = scene.registry.connection("team/orders")
    for is_free in (False, True):
        if is_free:
            scene.store.delete("team/orders")
        before = scene.store.list()
        with pytest.raises(NameTaken):
            scene.registry.refuse_import(known)
        assert scene.store.list() == before


def test_tokens_are_created_and_revoked_through_the_api(scene: Scene) -> None:
    registry = scene.registry
    token, text = registry.create_token("ci", ManagementRole.VIEWER, scope="team/", seconds=3600, now=time.time())
    (stored,) = scene.store.tokens()
    assert stored.matches(text.reveal())
    assert registry.tokens() == (token,)
    assert (token.id, token.role, token.scope) == (stored.id, ManagementRole.VIEWER, "team/")
    assert round(token.expires_at - token.created_at) == 3600
    with pytest.raises(NameTaken):
        registry.create_token("ci", ManagementRole.ADMIN, scope="", seconds=3600, now=time.time())
    with pytest.raises(ConfigurationError):
        registry.create_token("not a name", ManagementRole.ADMIN, scope="", seconds=3600, now=time.time())
    registry.delete_token(token.id)
    assert scene.store.tokens() == ()


def test_a_relay_that_has_stopped_since_the_request_before(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with StoreRegistry(state_dir=state, create=True) as local:
        local.prepare(now=time.time())
        local.import_(RECORD)
        before = local.connections()
    with blocking_client(ManagementClient(LocalAddress(state))) as client:
        registry = ApiRegistry(client)
        with served(state, over_tcp=False):
            known = registry.connection("team/orders")
        with pytest.raises(ManagementError, match="has stopped since the previous request, and did not get this one"):
            registry.delete(known)
    with StoreRegistry(state_dir=state) as local:
        assert local.connections() == before


def test_a_loop_that_cannot_begin_in_its_thread_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the command would wait for it forever."""

    def cannot_begin(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio, "run", cannot_begin)
    with (
        pytest.raises(OSError, match="Too many open files"),
        blocking_client(ManagementClient(LocalAddress(tmp_path / "state"))),
    ):
        raise AssertionError("the block is not entered")


def test_a_claim_is_made_and_revoked(scene: Scene) -> None:
    name = scene.registry.connections()[0].name
    string = ConnectionString(
        endpoints=(Endpoint("a.example.com"), Endpoint("b.example.com")),
        key_name="x",
        key=Secret("k"),
        entity_path=name,
    )
    with pytest.raises(ConfigurationError, match="names several relays"):
        create_claim(scene.registry, name, string, seconds=60, now=time.time())
    made = create_claim(scene.registry, name, string, host="b.example.com", seconds=60, note="n", now=time.time())
    (listed,) = scene.registry.claims(name)
    assert (listed, listed.state, listed.note) == (made.info, ClaimState.OPEN, "n")
    assert made.endpoint.host == "b.example.com"
    revoke_claim(scene.registry, name, listed.id[:6])
    (listed,) = scene.registry.claims(name)
    assert listed.state is ClaimState.REVOKED


def test_a_roll_begins_and_is_read(scene: Scene) -> None:
    name = "team/orders"
    assert scene.registry.roll(name, "application") is None
    known = scene.registry.connection(name).rule("application")
    key = generate_key()
    generation = known.keys[SECONDARY].generation
    scene.registry.roll_key(name, "application", SECONDARY, key, generation=generation, seconds=60.0, waits=True)
    assert scene.store.rule(name, "application").secondary == key
    found = scene.registry.roll(name, "application")
    assert found is not None
    assert (found.slot, found.waits, found.programs, found.missing) == (SECONDARY, True, 0, ())
    assert found.ends_at - found.started_at == 60.0
    assert (found.seen_since is not None) is isinstance(scene.registry, ApiRegistry), "a relay has answered"
    with pytest.raises(ConfigurationError, match="is already being rolled"):
        scene.registry.roll_key(name, "application", SECONDARY, key, generation=0, seconds=60.0, waits=False)


class OtherWords(WrappedStream):
    """Replaces a word in everything that arrives by another one of the same length."""

    def __init__(self, inner: trio.abc.Stream, word: bytes) -> None:
        super().__init__(inner)
        self.word = word

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`."""
        return (await super().receive_some(max_bytes)).replace(self.word, b"x" * len(self.word))


@attrs.define
class OtherVersion:
    """The address of a relay that has another word for one that this version expects."""

    of: LocalAddress
    word: bytes = b"~~~"
    host: str = "localhost"
    prefix: str = ""
    authorization: Secret | None = None

    async def connect(self) -> trio.abc.Stream:
        """See `Address`."""
        return OtherWords(await self.of.connect(), self.word)


@attrs.frozen
class OtherScene:
    """A registry at a relay of another version, and the store of the relay."""

    address: OtherVersion
    registry: Registry
    store: SQLiteStore


@pytest.fixture
def other(tmp_path: Path) -> Iterator[OtherScene]:
    state = tmp_path / "state"
    with StoreRegistry(state_dir=state, create=True) as local:
        local.prepare(now=time.time())
        local.import_(RECORD)
    address = OtherVersion(LocalAddress(state))
    with SQLiteStore.open(state) as store, served(state, over_tcp=False):
        with blocking_client(ManagementClient(address)) as client:
            yield OtherScene(address, ApiRegistry(client), store)


def test_a_new_key_is_kept_if_no_answer_can_be_read(other: OtherScene, tmp_path: Path) -> None:
    """The relay has made the change, and the file is the only copy of the key."""
    out = tmp_path / "new.key"

    def breaks() -> None:
        other.address.word = b'ame":'

    with pytest.raises(OutcomeUnknown, match="may have been made") as caught:
        regenerate_key(other.registry, "team/orders", "application", PRIMARY, out=out, before_change=breaks)
    key = other.store.rule("team/orders", "application").primary
    assert key is not None
    assert out.read_text().strip() == key.reveal()
    assert key_fingerprint(key) in str(caught.value.remedy)


def test_a_change_whose_answer_cannot_be_read_is_looked_up(other: OtherScene, tmp_path: Path) -> None:
    other.address.word = b"primaryKey"
    out = tmp_path / "new.key"
    done = regenerate_key(other.registry, "team/orders", "application", PRIMARY, out=out)
    assert out.read_text().strip() == done.key.reveal()
    assert other.store.rule("team/orders", "application").primary == done.key


def test_a_word_of_another_version_in_the_answer_to_a_change(other: OtherScene) -> None:
    registry = other.registry
    known = registry.connection("team/orders")
    other.address.word = b"Manage"
    with pytest.raises(OutcomeUnknown, match="an authorization rule"):
        registry.put_rule(known, "everything", {Right.MANAGE})
    assert other.store.rule("team/orders", "everything").rights == {Right.MANAGE}
    with pytest.raises(ManagementError, match="not what this version expects") as caught:
        registry.connection("team/orders")
    assert not isinstance(caught.value, OutcomeUnknown), "nothing was to be changed"
    other.address.word = b"operator"
    with pytest.raises(OutcomeUnknown, match="the role of a token"):
        registry.create_token("new", ManagementRole.OPERATOR, scope="", seconds=86_400.0, now=0.0)
    assert [one.name for one in other.store.tokens()] == ["new"]
