"""`docs/architecture.md` names modules that exist, and the layers that import-linter checks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
#: By its heading, what is below it.
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FLOWS = [title for title, text in SECTIONS.items() if re.search(r"^1\. ", text, re.MULTILINE)]


def modules_in(text: str) -> list[str]:
    """The modules and packages that are named, in order."""
    return re.findall(r"`([a-z_/]+(?:\.py|/))`", text)


def steps_of(title: str) -> str:
    """The numbered list of a section."""
    return re.split(r"^1\. ", SECTIONS[title], maxsplit=1, flags=re.MULTILINE)[1]


def test_every_module_exists() -> None:
    missing = [
        name for name in modules_in(PAGE) if not any((ROOT / at / name).exists() for at in ("hybridrelay", "."))
    ]
    assert not missing


def test_there_are_four_flows() -> None:
    assert len(FLOWS) == 4


@pytest.mark.parametrize("title", FLOWS)
def test_a_list_is_numbered_and_names_each_module_once(title: str) -> None:
    named = modules_in(steps_of(title))
    assert len(named) > 10
    assert sorted(named) == sorted(set(named))
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", SECTIONS[title], re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def modules_in_picture(title: str) -> list[str]:
    """The modules whose paths a picture shows. ``cli/serving/configuration, plan`` stands for two of them."""
    (picture,) = re.findall(r"```mermaid\n(.*?)```", SECTIONS[title], re.DOTALL)
    labels = re.findall(r"[a-z_]+/[a-z_/, ]+[a-z_]", picture.replace("/<br>", "/"))
    named = []
    for label in labels:
        first, *others = label.split(", ")
        package = first.rpartition("/")[0]
        named += [f"{first}.py", *(f"{package}/{other}.py" for other in others)]
    return [name for name in named if (ROOT / "hybridrelay" / name).exists()]


@pytest.mark.parametrize("title", [title for title in FLOWS if modules_in_picture(title)])
def test_the_list_names_the_modules_of_the_picture(title: str) -> None:
    assert set(modules_in_picture(title)) <= set(modules_in(steps_of(title)))


def test_pictures_show_modules() -> None:
    assert "connectivity/port_check.py" in modules_in_picture("A route that is chosen")
    assert "cli/serving/plan.py" in modules_in_picture("A key that is changed")


def test_every_package_is_described() -> None:
    described = set(re.findall(r"^\| `([^`]+)` \|", SECTIONS["Packages"], re.MULTILINE))
    packages = {f"{path.parent.name}/" for path in (ROOT / "hybridrelay").glob("*/__init__.py")}
    packages |= {f"transports/{path.parent.name}/" for path in (ROOT / "transports").glob("*/__init__.py")}
    packages |= {path.name for path in (ROOT / "hybridrelay").glob("[a-z]*.py")}
    assert described == packages


def test_the_layers_are_those_of_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["name"] == "layers")
    found = re.search(r"```text\n(.*?)```", SECTIONS["Which package may import which"], re.DOTALL)
    assert found is not None
    assert found[1].splitlines() == [line.replace("hybridrelay.", "") for line in layers]


def test_links_lead_to_headings() -> None:
    headings = re.findall(r"^##+ (.+)", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^a-z-]", "", title.lower().replace(" ", "-")) for title in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
