"""``hybridrelay connections apply``: many hybrid connections from one file, again and again."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridrelay.administration.authority_content import issuer_of
from hybridrelay.administration.connections import read_authority_file
from hybridrelay.administration.connector_config import update_connector_config
from hybridrelay.administration.declared import RENEW_ISSUER_DAYS
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import HostPort, Issuer, Right, UnixSocket, load_connection_string

from .conftest import Result, Run

DATABASES = 20


def declaration(*names: str, port: int = 5432, more: str = "", endpoint: str = '"relay.example"') -> str:
    tables = (
        f'[[connection]]\nname = "{name}"\ntarget = "{name.split("/")[-1]}.internal:{port}"\n' for name in names
    )
    return f"endpoint = {endpoint}\n" + "".join(tables) + more


REPORTING = '[[connection.application]]\nlabel = "reporting"\nrule = "reporting"\n'


def tables_in(config: Path) -> list[dict[str, object]]:
    tables = tomllib.loads(config.read_text())["connection"]
    assert isinstance(tables, list)
    return tables


@attrs.frozen
class Scene:
    run: Run
    directory: Path

    @property
    def out(self) -> Path:
        return self.directory / "out"

    def apply(self, text: str, *options: str, state: str = "state", out: str = "out") -> Result:
        path = self.directory / "databases.toml"
        path.write_text(text)
        return self.run(
            "connections", "apply", path, "--out", self.directory / out, "--state", self.directory / state, *options
        )

    def names(self, state: str = "state") -> list[str]:
        with SQLiteStore.open(self.directory / state) as registry:
            return sorted(one.name for one in registry.list())

    def everything(self) -> dict[str, str]:
        """The content of every file, and of what the relay has."""
        files = [path for path in self.out.rglob("*") if path.is_file()]
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        with SQLiteStore.open(self.directory / "state") as registry:
            return {**found, **{one.name: f"{one.hosts} {one.rules}" for one in registry.list()}}


@pytest.fixture
def scene(run: Run, tmp_path: Path) -> Scene:
    """A relay's state directory with nothing in it yet."""
    (tmp_path / "state").mkdir(mode=0o700)
    scene = Scene(run, tmp_path)
    assert scene.apply(declaration("first"), out="elsewhere").code == 0
    return scene


def test_twenty_databases_are_created_at_once_and_changed_singly(scene: Scene) -> None:
    """Created at once; a second time, nothing happens; then one gets another target and one an application."""
    names = [f"eu/db{number}" for number in range(DATABASES)]
    would = scene.apply(declaration(*names), "--dry-run")
    assert would.out.count("would create eu/db") == DATABASES
    assert not scene.out.exists()
    assert scene.names() == ["first"]
    done = scene.apply(declaration(*names))
    assert (done.code, done.err) == (0, "")
    assert set(scene.names()) == {"first", *names}
    strings = [
        load_connection_string(scene.out / "strings" / f"eu%2Fdb{number}.connector") for number in range(DATABASES)
    ]
    assert [one.entity_path for one in strings] == names
    assert strings[3].target == HostPort("db3.internal", 5432)
    assert (scene.out / "connector.toml").read_text().count("[[connection]]") == DATABASES
    before = scene.everything()
    again = scene.apply(declaration(*names))
    assert "20 hybrid connections are as declared: nothing was changed" in again.out
    assert scene.everything() == before
    changed = declaration(*names[:-1]) + declaration(names[-1], port=6000, more=REPORTING).partition("\n")[2]
    done = scene.apply(changed)
    authority = scene.out / "eu%2Fdb19.authority"
    pushing = f"hybridrelay updates push eu/db19 --target db19.internal:6000 --authority-file {authority}"
    assert done.out.splitlines() == [
        "done: change the target of eu/db19 from db19.internal:5432 to db19.internal:6000",
        f"  in programs that do not run with these files: {pushing}",
        "done: add rule reporting to eu/db19",
        "done: issue a connection string of eu/db19 with the label reporting",
    ]
    reporting = load_connection_string(scene.out / "eu%2Fdb19@reporting.application")
    assert reporting.key_name == "reporting"
    with SQLiteStore.open(scene.directory / "state") as registry:
        rule = registry.rule("eu/db19", "reporting")
    assert rule.rights == {Right.SEND}
    assert rule.primary == reporting.key
    after = scene.everything()
    assert {name for name in after if after[name] != before.get(name)} == {
        "eu%2Fdb19.connector",
        "eu%2Fdb19.authority",
        "eu%2Fdb19@reporting.application",
        "eu/db19",
    }


@pytest.mark.parametrize("several", [False, True])
def test_files_with_a_key_that_was_replaced_get_a_valid_one(scene: Scene, several: bool) -> None:
    """As after `keys roll`, which changes the files of the programs, and none in this directory.

    With several relays, another one may have got the new key earlier, so that the files are left alone.
    """
    endpoint = '["a.example", "b.example"]' if several else '"relay.example"'
    more = 'relay-pin = ["sha256:' + "A" * 43 + '=", "sha256:' + "B" * 42 + 'A="]\n' if several else ""
    text = more + declaration("a", "b", endpoint=endpoint, more=REPORTING)
    assert scene.apply(text).code == 0
    for rule in ("connector", "reporting"):
        for command in ("regenerate", "revoke"):
            slot = "secondary" if command == "regenerate" else "primary"
            options = ("--rule", rule, "--key", slot, "--state", scene.directory / "state")
            assert scene.run("keys", command, "b", *options).code == 0
    before = scene.everything()
    expected = [
        "write the secondary key of rule connector of b into b.connector, b.authority",
        "write the secondary key of rule reporting of b into b@reporting.application",
    ]
    would = scene.apply(text, "--dry-run")
    assert scene.everything() == before
    done = scene.apply(text)
    assert done.code == 0
    if several:
        assert "would write" not in would.out
        assert scene.everything() == before
        return
    assert would.out.splitlines() == [f"would {one}" for one in expected]
    assert done.out.splitlines() == [f"done: {one}" for one in expected]
    with SQLiteStore.open(scene.directory / "state") as registry:
        for rule, file in (("connector", "strings/b.connector"), ("reporting", "b@reporting.application")):
            assert load_connection_string(scene.out / file).key == registry.rule("b", rule).secondary
    assert "nothing was changed" in scene.apply(text).out


def test_a_unix_socket_as_target(scene: Scene) -> None:
    text = 'endpoint = "relay.example"\n[[connection]]\nname = "db"\ntarget = "{}"\n'
    assert scene.apply(text.format("unix:/run/db.sock")).code == 0
    assert load_connection_string(scene.out / "strings" / "db.connector").target == UnixSocket("/run/db.sock")
    assert "nothing was changed" in scene.apply(text.format("unix:/run/db.sock")).out
    done = scene.apply(text.format("db.internal:5432"))
    change, advice = done.out.splitlines()
    assert change == "done: change the target of db from unix:/run/db.sock to db.internal:5432"
    assert "hybridrelay updates push db --target db.internal:5432 " in advice


def test_nothing_is_deleted_without_the_option(scene: Scene) -> None:
    """What was not made from this directory is not touched in any case."""
    scene.apply(declaration("a", "b", more=REPORTING))
    result = scene.apply(declaration("b"))
    assert result.out.splitlines() == [
        "not done without --delete: delete rule reporting of b",
        "not done without --delete: delete a",
        "1 hybrid connection is as declared: nothing was changed",
    ]
    assert scene.names() == ["a", "b", "first"]
    result = scene.apply(declaration("b"), "--delete", "--dry-run")
    assert result.out.splitlines() == ["would delete rule reporting of b", "would delete a"]
    assert scene.names() == ["a", "b", "first"]
    config = scene.out / "connector.toml"
    assert [one["file"] for one in tables_in(config)] == ["strings/a.connector", "strings/b.connector"]
    result = scene.apply(declaration("b"), "--delete")
    assert (result.code, result.out.splitlines()[2]) == (0, f"removed the table of a.connector from {config}")
    assert [one["file"] for one in tables_in(config)] == ["strings/b.connector"]
    assert scene.names() == ["b", "first"]
    with SQLiteStore.open(scene.directory / "state") as registry:
        assert {rule.name for rule in registry.get("b").rules} == {"connector", "application"}
    as_declared = "1 hybrid connection is as declared"
    assert scene.apply(declaration("b"), "--delete").out.splitlines() == [f"{as_declared}: nothing was changed"]
    config.unlink()
    again = scene.apply(declaration("b"), "--delete").out.splitlines()
    assert again[0].startswith("added to ")
    assert again[-1] == as_declared, "something was changed: the configuration file"


def test_an_application_that_has_another_rule_is_not_cut_off(scene: Scene) -> None:
    assert scene.apply(declaration("orders", more=REPORTING)).code == 0
    before = scene.everything()
    other = REPORTING.replace('rule = "reporting"', 'rule = "other"')
    for options in ((), ("--delete",)):
        refused = scene.apply(declaration("orders", more=other), *options)
        assert refused.code == 2
        assert "with the label reporting has the key of rule reporting, and not of rule other" in refused.err
        assert "move orders@reporting.application away" in refused.err
        assert scene.everything() == before
    without_rule = REPORTING.replace('rule = "reporting"\n', "")
    refused = scene.apply(declaration("orders", more=without_rule), "--delete")
    assert "rule reporting, and not of rule application" in refused.err
    # What the message says.
    (scene.out / "orders@reporting.application").rename(scene.directory / "earlier")
    assert scene.apply(declaration("orders", more=other)).code == 0
    assert load_connection_string(scene.out / "orders@reporting.application").key_name == "other"
    assert scene.apply(declaration("orders", more=other), "--delete").code == 0


def test_a_declaration_for_two_relays_is_applied_at_each(scene: Scene) -> None:
    """The command is run for each; then a third relay takes the place of the second."""
    pin = f"sha256:{'A' * 43}="
    pins = f'relay-pin = ["{pin}"]\n'
    two = pins + declaration("a", endpoint='["one.example", "two.example"]')
    assert scene.apply(two).code == 0
    (scene.directory / "second").mkdir(mode=0o700)
    assert "import a at this relay" in scene.apply(two, state="second").out
    assert scene.names("second") == ["a"]
    for state in ("state", "second"):
        assert "nothing was changed" in scene.apply(two, state=state).out
    string = load_connection_string(scene.out / "a.application")
    assert (string.hosts, string.relay_pins) == (("one.example", "two.example"), (pin,))
    three = two.replace("two.example", "three.example")
    result = scene.apply(three)
    assert "done: change the relays of a from one.example, two.example to one.example, three.example" in result.out
    for name in ("a.application", "strings/a.connector"):
        assert load_connection_string(scene.out / name).hosts == ("one.example", "three.example")
    assert "nothing was changed" in scene.apply(three).out


ISSUER = "issuer = true\n"


def issuer_in(scene: Scene, name: str) -> Issuer:
    """The issuer of a hybrid connection, which its connector's connection string and its authority file have."""
    issuer = load_connection_string(scene.out / "strings" / f"{name}.connector").issuer
    assert issuer is not None
    assert issuer_of(read_authority_file(scene.out / f"{name}.authority", name)) == issuer
    return issuer


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        ('"https=8443"', [{"https": 8443}]),
        ("{https = 8443, http = 'off'}", [{"https": 8443, "http": None}]),
        ('["https=8443", ""]', [{"https": 8443}, {}]),
        ("[{https = 8443}, {probe = 'off'}]", [{"https": 8443}, {"probe": None}]),
    ],
)
def test_public_ports(scene: Scene, value: str, ports: list[dict[str, int | None]]) -> None:
    hosts = [f"{name}.example" for name in "ab"[: len(ports)]]
    assert scene.apply(f"public-ports = {value}\n" + declaration("orders", endpoint=str(hosts))).code == 0
    string = load_connection_string(scene.out / "strings" / "orders.connector")
    assert [(one.host, dict(one.ports)) for one in string.endpoints] == list(zip(hosts, ports, strict=True))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{https = 8443, htps = 8444}", "databases.toml: line 1: unknown port 'htps'"),
        ("[{https = 8443}, {htps = 8444}]", "unknown port 'htps'"),
        ("[{https = 8443}, {http = 'of'}]", "line 1: public-ports.http: "),
        ('"htps=1"', "line 1: unknown port 'htps'"),
    ],
)
def test_public_ports_that_are_none(scene: Scene, value: str, says: str) -> None:
    done = scene.apply(f"public-ports = {value}\n" + declaration("orders", endpoint='["a.example", "b.example"]'))
    assert (done.code, says in done.err) == (2, True), done.err


def test_an_issuer_for_a_new_hybrid_connection_and_for_one_that_is_there(scene: Scene) -> None:
    assert scene.apply(declaration("a")).code == 0
    before = scene.everything()
    wanted = declaration("b", more=ISSUER) + declaration("a", more=ISSUER).partition("\n")[2]
    would = scene.apply(wanted, "--dry-run")
    lines = [
        "create b: target b.internal:5432, relays relay.example, with an issuer",
        "give a an issuer",
    ]
    assert would.out.splitlines() == [f"would {line}" for line in lines]
    assert scene.everything() == before
    done = scene.apply(wanted)
    advice = f"  copy the connection string to connectors that run elsewhere: {scene.out / 'strings' / 'a.connector'}"
    assert done.out.splitlines()[:3] == [f"done: {lines[0]}", f"done: {lines[1]}", advice]
    string = load_connection_string(scene.out / "strings" / "a.connector")
    _, authority = string.require_identity()
    issuer_in(scene, "a").check(authority)
    issuer_in(scene, "b")
    after = scene.everything()
    assert {name for name in before if after[name] != before[name]} == {
        "a.connector",
        "a.authority",
        "connector.toml",
    }
    # Neither a second time nor without the key is anything changed.
    for text in (wanted, declaration("b", "a")):
        assert "nothing was changed" in scene.apply(text).out
        assert scene.everything() == after
    refused = scene.apply(declaration("b") + declaration("a", more="issuer = false\n").partition("\n")[2])
    assert (refused.code, scene.everything()) == (2, after)
    assert "line 5: a has an issuer, which cannot be taken away" in refused.err
    assert scene.apply(declaration("b", "a", "c", more="issuer = false\n")).code == 0
    assert load_connection_string(scene.out / "strings" / "c.connector").issuer is None


@pytest.mark.parametrize("missing", [True, False])
def test_an_issuer_that_the_connector_lacks_or_that_ends_soon(scene: Scene, missing: bool) -> None:
    """A new one is made, and one that does not end soon is kept."""
    wanted = declaration("a", more=ISSUER)
    assert scene.apply(wanted).code == 0
    connector, authority = scene.out / "strings" / "a.connector", scene.out / "a.authority"
    if missing:
        string = load_connection_string(connector)
        connector.write_text(attrs.evolve(string, issuer=None).format())
    else:
        years = f"{(RENEW_ISSUER_DAYS + 1) / 365.25:.4f}"
        options = ("--authority-file", authority, "--update", connector)
        assert scene.run("connections", "issuer", "a", *options, "--valid-years", years).code == 0
        assert "nothing was changed" in scene.apply(wanted).out
        years = f"{(RENEW_ISSUER_DAYS - 1) / 365.25:.4f}"
        assert scene.run("connections", "issuer", "a", *options, "--valid-years", years).code == 0
    before = issuer_of(read_authority_file(authority, "a"))
    why = "give a an issuer" if missing else "give a a new issuer, because its issuer expires in less than 60 days"
    assert scene.apply(wanted, "--dry-run").out.splitlines() == [f"would {why}"]
    assert scene.apply(wanted).out.splitlines()[0] == f"done: {why}"
    assert issuer_in(scene, "a") != before
    assert "nothing was changed" in scene.apply(wanted).out


def test_a_connector_whose_connection_string_was_moved_away(scene: Scene) -> None:
    """Then the authority file gets the issuer, for connection strings that are issued later."""
    assert scene.apply(declaration("a")).code == 0
    (scene.out / "strings" / "a.connector").rename(scene.directory / "moved")
    assert scene.apply(declaration("a", more=ISSUER)).code == 0
    assert issuer_of(read_authority_file(scene.out / "a.authority", "a")) is not None
    assert "nothing was changed" in scene.apply(declaration("a", more=ISSUER)).out


def test_an_application_that_takes_a_claim(scene: Scene) -> None:
    """It gets its rule, and no connection string in a file; the claim has no private key."""
    wanted = declaration("a", more=ISSUER + REPORTING + "by-claim = true\n")
    assert scene.apply(wanted).out.splitlines()[0].startswith("done: create a: ")
    assert not (scene.out / "a@reporting.application").exists()
    assert "nothing was changed" in scene.apply(wanted, "--delete").out
    options = ("--role", "application", "--label", "reporting", "--rule", "reporting")
    source = ("--authority-file", scene.out / "a.authority", "--state", scene.directory / "state")
    created = scene.run("claims", "create", "a", *options, *source)
    assert (created.code, created.err) == (0, "")
    assert "The claim contains no private key" in created.out
    # Without the key, one is issued; and with it again, that one is left alone.
    assert scene.apply(wanted.replace("by-claim = true\n", "")).code == 0
    assert load_connection_string(scene.out / "a@reporting.application").key_name == "reporting"
    assert "nothing was changed" in scene.apply(wanted).out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("endpoint = 'r'\n[[connection]]\nname = 'a'\n", "databases.toml: line 2: target is missing"),
        ("[[connection]]\nname = 'a'\ntarget = 'b:1'\n", "line 1: endpoint is missing"),
        ("endpoint = 'r'\n[[connection]]\nnmae = 'a'\n", "line 3: unknown key 'nmae'"),
        ("endpoint = 'r'\n[connection]\nname = 'a'\n", r"line 2: write [[connection]], in two pairs of brackets"),
        (declaration("a", "b", "a"), "line 8: a is declared twice"),
        (declaration("a", more="[[connection.application]]\nrule = 'x'\n"), "line 5: label is missing"),
        (declaration("a", more=REPORTING + REPORTING), "line 8: the label reporting occurs twice"),
        (declaration("a", port=70000), "line 4: target: "),
        (declaration("a", more="issuer = 'yes'\n"), "line 5: issuer: expected true or false"),
        (
            declaration("new", "first"),
            "line 5: the relay has a hybrid connection first, whose authority file is not in",
        ),
    ],
)
def test_a_mistake_changes_nothing(scene: Scene, text: str, says: str) -> None:
    result = scene.apply(text)
    assert result.code == 2
    assert says in result.err
    assert scene.names() == ["first"]


def test_what_was_left_by_an_interrupted_run(scene: Scene) -> None:
    """Files without a hybrid connection: an error says what to do with them, and the others are not affected."""
    scene.apply(declaration("a", "b"))
    with SQLiteStore.open(scene.directory / "state") as registry:
        registry.delete("a")
    result = scene.apply(declaration("a", "b"))
    assert "line 2: there is an authority file for a, but the relay has no such hybrid connection" in result.err
    for path in scene.out.rglob("a.*"):
        path.rename(scene.directory / path.name)
    assert scene.apply(declaration("a", "b")).out.splitlines()[0].startswith("done: create a")


def test_names_that_look_like_labels(scene: Scene) -> None:
    """The files of `a.reporting` are not those of an application of `a`."""
    scene.apply(declaration("a.reporting", "a", more=REPORTING))
    for file, name in (("a.reporting.application", "a.reporting"), ("a@reporting.application", "a")):
        assert load_connection_string(scene.out / file).entity_path == name


OPERATORS = """\
# Our connector.
grace = 10
deny-list = "denied"

[[connection]]
file = "/etc/hybridrelay/strings/b.connector"  # moved
proxy-protocol = true

# The first database, see ticket 12.
[[connection]]
file = "strings/a.connector"

# Not from here.
[[connection]]
file = "strings/other.connector"
deny-list = "others"
"""


def test_what_the_operator_has_written_into_the_configuration_stays(scene: Scene) -> None:
    """Options, keys of tables, tables of others and comments; also the place to which a file was moved."""
    scene.apply(declaration("a", "b"))
    config = scene.out / "connector.toml"
    config.write_text(OPERATORS)
    done = scene.apply(declaration("a", "b", "c"))
    assert config.read_text() == OPERATORS + '\n[[connection]]\nfile = "strings/c.connector"\n'
    assert f"added to {config}: strings/c.connector" in done.out
    assert "nothing was changed" in scene.apply(declaration("a", "b", "c")).out
    assert scene.apply(declaration("b", "c"), "--delete").code == 0
    without = OPERATORS.replace(
        '# The first database, see ticket 12.\n[[connection]]\nfile = "strings/a.connector"\n\n', ""
    )
    assert config.read_text() == without + '\n[[connection]]\nfile = "strings/c.connector"\n'


@pytest.mark.parametrize(
    "text", ['connection = [{file = "strings/a.connector"}]\n', 'connection = [{file = "x.connector"}]\n']
)
def test_tables_that_are_written_in_another_way_are_not_touched(scene: Scene, text: str) -> None:
    scene.apply(declaration("a"))
    config = scene.out / "connector.toml"
    config.write_text(text)
    result = scene.apply(declaration("a", "b"))
    assert result.code == 2
    assert 'change it yourself: add [[connection]] with file = "strings/' in result.err
    assert config.read_text() == text
    assert "b" in scene.names()


def test_the_files_fit_a_service_that_was_installed(scene: Scene, run: Run, tmp_path: Path) -> None:
    """`connector.toml` and `strings`, copied into the directories of `service install`, can be used as they are."""
    root = tmp_path / "root"
    assert run("service", "install", "connector", "--root", root, "--program", "/opt/hybridrelay").code == 0
    scene.apply(declaration("a", "b"))
    place = root / "etc" / "hybridrelay"
    shutil.copy(scene.out / "connector.toml", place)
    shutil.copytree(scene.out / "strings", place / "strings", dirs_exist_ok=True)
    assert (place / "connector.toml").stat().st_mode & 0o777 == 0o644
    files = [place / str(table["file"]) for table in tables_in(place / "connector.toml")]
    assert [load_connection_string(file).entity_path for file in files] == ["a", "b"]
    assert {file.parent for file in files} == {place / "strings"}


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d", "e"]),
            st.sampled_from(["", "# x\n", '\nproxy-protocol = true\nx = """\n[[connection]]\n# y\n"""\n', "\r\n"]),
            st.sampled_from(["", "# above\n", "\n\n# above\n#\n"]),
        ),
        max_size=5,
    ),
    top=st.sampled_from(["", "grace = 3\n", "# only a comment", 'x = """\n[[connection]]\n"""\n\n']),
    wanted=st.lists(st.sampled_from("abcde"), max_size=5, unique=True),
    gone=st.sets(st.sampled_from("abcde")),
)
def test_any_file_means_the_same_afterwards(
    tmp_path_factory: pytest.TempPathFactory,
    blocks: list[tuple[str, str, str]],
    top: str,
    wanted: list[str],
    gone: set[str],
) -> None:
    """What is declared has a table, what is gone has none, and nothing else has changed."""
    path = tmp_path_factory.mktemp("config") / "connector.toml"
    text = f"{top}\n" + "".join(f'{above}[[connection]]\nfile = "{name}"\n{more}' for name, more, above in blocks)
    path.write_bytes(text.encode())
    gone -= set(wanted)
    before = tomllib.loads(text)
    tables = before.pop("connection", [])
    change = update_connector_config(path, wanted, gone.__contains__)
    kept = [table for table in tables if table["file"] not in gone]
    new = [{"file": name} for name in wanted if name not in {table["file"] for table in tables}]
    after = tomllib.loads(path.read_bytes().decode())
    assert after.pop("connection", []) == [*kept, *new]
    assert after == before
    assert change.added == tuple(table["file"] for table in new)
    if not new and kept == tables:
        assert path.read_bytes() == text.encode()
