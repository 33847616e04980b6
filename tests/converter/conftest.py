"""The sealed environment and a few tiny networks, each exported and converted once per session."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from torchopt2edge.converter import Conversion, Environment, convert
from torchopt2edge.errors import EdgeError


class TwoByTwo(nn.Module):
    """Two inputs of different rank, two outputs of different rank."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.to_scores, self.from_meta = nn.Linear(8, 3), nn.Linear(6, 8)

    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.relu(self.stem(image))
        mask = self.head(features) + self.from_meta(meta)[:, :, None, None]
        return self.to_scores(mask.mean((2, 3))), mask


class Determinant(nn.Module):
    """An operator that TensorFlow Lite does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(x * 2)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 8 * 8, 5),
    )


def padded() -> nn.Module:
    """TensorFlow's SAME padding, as ported networks have it."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU6(),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def norm_after_relu() -> nn.Module:
    """A square 8×8×8 output whose layout no shape gives away, behind an unfoldable BatchNorm."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def warmed(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    """Give BatchNorm statistics that are not those of a fresh network."""
    for _ in range(3):
        net.train()(*(torch.randn(4, *x.shape[1:]) for x in inputs))
    return net.eval()


@dataclass(frozen=True)
class Net:
    """How to make a network and feed it, and what its inputs and outputs are called."""

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    inputs: tuple[str, ...] = ("x",)
    outputs: tuple[str, ...] = ("y",)

    def export(self, path: Path) -> Path:
        """Write the network as ONNX."""
        torch.manual_seed(0)
        inputs = tuple(torch.randn(*shape) for shape in self.shapes)
        torch.onnx.export(
            warmed(self.make(), inputs),
            inputs,
            path,
            dynamo=True,
            opset_version=18,
            external_data=False,
            input_names=list(self.inputs),
            output_names=list(self.outputs),
            verbose=False,
        )
        return path


NETS = {
    "cnn": Net(cnn, ((1, 3, 32, 32),)),
    "padded": Net(padded, ((1, 3, 32, 32),), ("input",), ("logits",)),
    "norm_after_relu": Net(norm_after_relu, ((1, 3, 8, 8),)),
    "two": Net(TwoByTwo, ((1, 3, 8, 8), (1, 6)), ("image", "meta"), ("scores", "a/mask:0")),
    "mlp": Net(mlp, ((1, 16),), ("features",), ("lambda",)),
    "determinant": Net(Determinant, ((1, 3, 3),)),
}
REFUSED = ("determinant",)


@dataclass(frozen=True)
class Outcome:
    """What became of one network."""

    onnx: Path
    digest: str
    conversion: Conversion | None
    error: EdgeError | None


@pytest.fixture(scope="session")
def env(sealed: Environment) -> Environment:
    """Return the sealed environment of the running Python version, built unless it is there."""
    return sealed


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return every network as ONNX."""
    folder = tmp_path_factory.mktemp("onnx")
    return {name: net.export(folder / f"{name}.onnx") for name, net in NETS.items()}


@pytest.fixture(scope="session")
def outcomes(
    env: Environment, exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """Convert every network, two at a time: conversions do not get into each other's way."""
    folder = tmp_path_factory.mktemp("tflite")

    def run(name: str) -> Outcome:
        path = exported[name]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            made = convert(path, folder / name / "float.tflite", env=env)
        except EdgeError as error:
            return Outcome(path, digest, None, error)
        return Outcome(path, digest, made, None)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(NETS, pool.map(run, NETS), strict=True))
