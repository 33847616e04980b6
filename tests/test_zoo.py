"""The model zoo through both backends: `make zoo` (minutes)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import torchopt2edge as t2e
from tests.conftest import users_cache
from torchopt2edge.converter import Environment
from torchopt2edge.store import Store

pytestmark = pytest.mark.zoo
NAMES = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "squeezenet1_1",
    "efficientnet_lite0",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite4",
    "mobilenetv4_conv_small",
)


@pytest.fixture(autouse=True)
def _cache() -> Iterator[None]:
    with users_cache():
        yield


def built(name: str) -> nn.Module:
    """A zoo net with random weights, its BatchNorm statistics warmed.

    Parity on a fresh net is a false pass: its outputs are ~1e-15.
    """
    from torchopt2edge.models.timm_net import timm_net
    from torchopt2edge.models.torchvision_net import torchvision_net

    torch.manual_seed(0)
    known = name in torchvision.models.list_models(module=torchvision.models)
    net = (torchvision_net if known else timm_net)(name, num_classes=1000)
    with torch.no_grad():
        for seed in range(4):
            net.train()(pictures(16, seed))
    return net.eval()


def pictures(count: int, seed: int) -> Tensor:
    """Smooth random images at 224: blobs of colour, nearer to photographs than white noise."""
    torch.manual_seed(seed)
    coarse = torch.randn(count, 3, 14, 14)
    return nn.functional.interpolate(coarse, size=224, mode="bicubic")


@pytest.mark.parametrize("name", NAMES)
def test_a_zoo_net_goes_to_both_runtimes(name: str, sealed: Environment, tmp_path: Path) -> None:
    found = t2e.compare(
        built(name),
        (pictures(4, 100),),
        calibration=[pictures(16, 101)],
        timing="smoke",
        out=tmp_path / "out",
        store=Store(tmp_path / "store"),
    )
    rows = {row.candidate: row for row in found.rows}
    assert set(rows) == {"torch-fp32", "ort-fp32", "ort-int8", "litert-fp32", "litert-int8"}
    for row in found.rows:
        assert row.err is None, f"{row.candidate}: {row.err}"
    for backend in ("ort", "litert"):
        assert rows[f"{backend}-fp32"].metrics["sqnr_db"] >= 90
        # A floor for a net that was never trained: its outputs hardly depend on the picture.
        assert rows[f"{backend}-int8"].metrics["sqnr_db"] >= 5
    assert rows["litert-int8"].facts["ranges_matched"] >= 90
