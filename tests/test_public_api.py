"""The names users may lean on: adding or dropping one is a decision, recorded here."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import torchopt2edge

PUBLIC = (
    "Constraints Distill EdgeError Iterative Linear Measurement OneShot Polynomial Preprocess "
    "Prune Quantize Result Sparsify Verdict __version__ bench compare compress data devices "
    "explain integrations models optimize qat quantize rebuild stages tasks"
).split()


def test_the_public_names() -> None:
    assert torchopt2edge.__all__ == PUBLIC == dir(torchopt2edge)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_resolves(name: str) -> None:
    assert getattr(torchopt2edge, name) is not None


def test_nothing_else_does() -> None:
    with pytest.raises(AttributeError, match="'torchopt2edge' has no attribute 'Optimize'"):
        torchopt2edge.Optimize  # noqa: B018


@pytest.mark.parametrize("name", ["bench", "quantize"])
@pytest.mark.parametrize("order", ["import torchopt2edge.{0}.held_out", "t2e.compare", "pass"])
def test_a_verb_with_the_name_of_a_sub_package_is_called(name: str, order: str) -> None:
    """Whether the sub-package was imported before or not, under whatever name."""
    first = order.format(name).replace("bench.held_out", "bench.flags")
    code = f"""
import torchopt2edge as t2e
{first}
from torchopt2edge import {name}
assert t2e.{name} is {name} and callable({name}), {name}
try:
    {name}("none.onnx", nothing=1)
except t2e.EdgeError as error:
    assert "there is no setting 'nothing'" in str(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["bench", "quantize"])
def test_a_verb_has_the_signature_of_its_function(name: str) -> None:
    verb = getattr(torchopt2edge, name)
    function = getattr(importlib.import_module("torchopt2edge.api"), name)
    assert inspect.signature(verb) == inspect.signature(function)
