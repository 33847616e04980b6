"""The names users may lean on: adding or dropping one is a decision, recorded here."""

from __future__ import annotations

import pytest

import torchopt2edge

PUBLIC = (
    "Constraints Distill EdgeError Iterative Linear Measurement OneShot Polynomial Preprocess "
    "Prune Quantize Result Sparsify Verdict __version__ compare compress data devices explain "
    "integrations lower measure models optimize qat rebuild stages tasks"
).split()


def test_the_public_names() -> None:
    assert torchopt2edge.__all__ == PUBLIC == dir(torchopt2edge)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_resolves(name: str) -> None:
    assert getattr(torchopt2edge, name) is not None


def test_nothing_else_does() -> None:
    with pytest.raises(AttributeError, match="'torchopt2edge' has no attribute 'Optimize'"):
        torchopt2edge.Optimize  # noqa: B018
