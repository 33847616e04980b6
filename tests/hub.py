"""Tiny networks on the hub: exported, shared, calibrated, as `pipeline` does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from torchopt2edge.quantize.calibrate import calibrate
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.stages.export import export_module
from torchopt2edge.store import Store
from torchopt2edge.types import Artifact, Ranges
from torchopt2edge.workflow import calibration, float_graph


@dataclass(frozen=True)
class Made:
    """A network on the hub: the shared graph, its calibration samples and its ranges."""

    graph: Artifact
    samples: Artifact
    ranges: Ranges
    inputs: dict[str, np.ndarray]
    net: nn.Module

    @property
    def kept(self) -> Samples:
        """The calibration samples."""
        return Samples(self.samples.path)


def make(
    kind: Callable[[], nn.Module], shapes: dict[str, tuple[int, ...]], store: Store, out: Path
) -> Made:
    """Warm a network's statistics, export it, and calibrate it on 24 random samples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = kind()
        batches = {name: torch.randn(24, *shape) for name, shape in shapes.items()}
        for _ in range(20):
            net.train()(*(torch.randn(16, *shape) for shape in shapes.values()))
    given = tuple(batch[:4] for batch in batches.values())
    export_module(net.eval(), given, out)
    digest = float_graph.file_digest(out / "model.onnx")
    graph = float_graph.share_graph(out / "model.onnx", digest, store)
    samples = calibration.keep_samples([batches], graph, 24, "calibration", store)
    ranges = calibrate(onnx.load(graph.path / "model.onnx"), Samples(samples.path))["minmax"]
    arrays = {name: batch.numpy() for name, batch in batches.items()}
    return Made(graph, samples, ranges, arrays, net)


class TinyCnn(nn.Module):
    """What mobile networks are made of: depthwise, residual, concatenation, two pools, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.depth = _conv(32, 32, 3, padding=1, groups=32)
        self.point = nn.Sequential(nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.wide = _conv(64, 96, 3, padding=1)
        self.head = nn.Linear(96, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Score images [N, 3, 32, 32] in 10 classes."""
        low = self.pool(self.stem(image))
        added = low + self.point(self.depth(low))
        joined = torch.cat([low, added], dim=1)
        scores: Tensor = self.head(self.wide(joined).mean((2, 3)))
        return scores


def _conv(given: int, made: int, size: int, **how: int) -> nn.Sequential:
    conv = nn.Conv2d(given, made, size, bias=False, **how)
    return nn.Sequential(conv, nn.BatchNorm2d(made), nn.ReLU6())


class TwoByTwo(nn.Module):
    """Two inputs, two outputs, a HardSwish as in MobileNetV3, a norm that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.swish = nn.Conv2d(3, 16, 3, padding=1), nn.Hardswish()
        self.body, self.mask = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 2, 1)
        self.late = nn.BatchNorm2d(16)  # behind a ReLU
        self.known, self.head = nn.Linear(6, 16), nn.Linear(32, 4)

    def forward(self, image: Tensor, meta: Tensor) -> dict[str, Tensor]:
        """Take images [N, 3, 16, 16] and vectors [N, 6]; give scores and a mask."""
        features = self.late(torch.relu(self.body(self.swish(self.stem(image)))))
        known = torch.relu(self.known(meta))
        joined = torch.cat([features.mean((2, 3)), known], dim=1)
        return {"scores": self.head(joined), "mask": self.mask(features)}
