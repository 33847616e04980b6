from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from torchopt2edge.data.digits import Digits
from torchopt2edge.interfaces import Stage
from torchopt2edge.models.artifact import save_model
from torchopt2edge.types import Artifact

Run = Callable[..., Artifact]


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits(size=16, test_count=300, calibration_count=32)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a stage in a fresh folder and return its artifact."""
    made = 0

    def go(stage: Stage, **inputs: Artifact) -> Artifact:
        nonlocal made
        made += 1
        out = tmp_path / f"stage-{made}"
        out.mkdir()
        assert set(stage.needs) == set(inputs)
        return Artifact(stage.kind, out, str(made), stage(inputs, out))

    return go


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[nn.Module, Callable[..., nn.Module]], Artifact]:
    """Put a net of the test's own into a model artifact."""

    def save(net: nn.Module, factory: Callable[..., nn.Module]) -> Artifact:
        save_model(net, factory, tmp_path / "given")
        return Artifact("model", tmp_path / "given", "given")

    return save
