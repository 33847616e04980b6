"""What is installed is what lies here: packages, data, pins."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import torchopt2edge

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = PROJECT["tool"]["setuptools"]
FOLDERS = {"torchopt2edge.conf": ROOT / "conf"}


def folder(package: str) -> Path:
    """Return the folder of a package."""
    return FOLDERS.get(package, ROOT.joinpath(*package.split(".")))


def name_of(requirement: str) -> str:
    """Return the normalised name in front of a requirement's versions and markers."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_the_packages_are_those_on_disk() -> None:
    inits = (ROOT / "torchopt2edge").rglob("__init__.py")
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert set(BUILD["packages"]) == {*there, *FOLDERS}
    assert BUILD["packages"] == sorted(BUILD["packages"])


def test_no_module_lies_outside_a_package() -> None:
    for path in (ROOT / "torchopt2edge").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path


@pytest.mark.parametrize(
    ("package", "pattern"),
    [(name, pattern) for name, found in BUILD["package-data"].items() for pattern in found],
)
def test_every_pattern_of_data_finds_something(package: str, pattern: str) -> None:
    assert list(folder(package).glob(pattern))


def test_every_data_file_is_installed() -> None:
    taken = {
        path
        for package, patterns in BUILD["package-data"].items()
        for pattern in patterns
        for path in folder(package).glob(pattern)
    }
    places = [ROOT / "torchopt2edge", ROOT / "conf"]
    there = {path for place in places for path in place.rglob("*") if path.is_file()}
    own = {path for path in there if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert own == taken


def test_the_version_is_said_once() -> None:
    assert PROJECT["project"]["version"] == torchopt2edge.__version__


def pins() -> dict[str, str]:
    """Return the pinned version by name."""
    text = (ROOT / "constraints.txt").read_text()
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return {name_of(line): line for line in lines if line}


def test_every_dependency_is_pinned() -> None:
    project = PROJECT["project"]
    needed = {*project["dependencies"], *project["optional-dependencies"]["dev"]}
    assert {name_of(one) for one in needed} <= set(pins())


def test_a_pin_is_exact() -> None:
    assert not [line for line in pins().values() if "==" not in line]


def test_every_pin_holds_what_the_project_asks_for() -> None:
    from packaging.requirements import Requirement

    asked = {name_of(one): Requirement(one) for one in PROJECT["project"]["dependencies"]}
    for name, requirement in asked.items():
        (pin,) = Requirement(pins()[name]).specifier
        assert requirement.specifier.contains(pin.version), pins()[name]
