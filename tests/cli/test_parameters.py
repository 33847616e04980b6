"""Parameters that are read from the source are those that Python itself reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object

from torchopt2edge.cli import parameters
from torchopt2edge.cli.parameters import inspected, parameters_of

CONF = Path(__file__).parents[2] / "conf"
TARGETS = {
    target
    for file in CONF.rglob("*.yaml")
    for target in re.findall(r"_target_: (torchopt2edge\S+)", file.read_text())
}
PLAIN = {int, float, str, bool, int | None, float | None, str | None, tuple[float, ...]}


@pytest.mark.parametrize("target", sorted(TARGETS - {"torchopt2edge.devices.Local"}))
def test_the_source_of_a_target_shows_its_parameters(target: str) -> None:
    read = parameters._declared(target)
    asked = inspected(get_object(target))
    assert read is not None
    assert asked is not None
    assert (read.owner, read.any_name) == (asked.owner, asked.any_name)
    assert set(read.types) == set(asked.types)
    evaluated = parameters._evaluated(read.types)
    plain = {name: kind for name, kind in asked.types.items() if kind in PLAIN}
    assert {name: evaluated[name] for name in plain} == plain


def test_a_name_that_a_package_passes_on_is_imported() -> None:
    """``torchopt2edge.devices`` defines no ``Local`` of its own."""
    assert parameters._declared("torchopt2edge.devices.Local") is None
    found = parameters_of("torchopt2edge.devices.Local", get_object)
    assert found is not None
    assert found.types["threads"] is int


def test_an_old_path_is_the_new_one() -> None:
    found = parameters_of("torchopt2edge.ramp.OneShot", get_object)
    assert found is not None
    assert list(found.types) == ["begin"]


@pytest.mark.parametrize(
    ("function", "names", "any_name"),
    [
        (lambda a, *rest, b=1: a, {"a", "b"}, False),
        (lambda a, /, **rest: a, set(), True),
    ],
)
def test_what_is_no_keyword_is_no_parameter(function: Any, names: set[str], any_name: bool) -> None:
    found = inspected(function)
    assert found is not None
    assert (set(found.types), found.any_name) == (names, any_name)


def test_what_describes_nothing_is_not_checked() -> None:
    assert inspected(dict.fromkeys) is None or inspected(min) is None
    assert parameters_of("nopkg.net", lambda target: None) is None


def test_a_name_for_type_checkers_alone_stands_for_any_type() -> None:
    def function(count: int, net: nn.Module | None, pairs: Pairs[int]) -> None:  # noqa: F821
        """Two of its types are nowhere defined."""

    found = inspected(function)
    assert found is not None
    assert found.types["count"] is int
