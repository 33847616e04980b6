"""Networks and images to measure with: nothing is downloaded, and no output is a false pass.

A freshly initialised network with untouched BatchNorm statistics outputs about 1e-15, and every
file agrees with that: the statistics, and a head that tells images apart, are found here, on
other images than those that calibrate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

ZOO = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "resnet18",
    "efficientnet_b0",
    "squeezenet1_1",
    "tf_efficientnet_lite0",
)
SIZE = 224
WARMING = 64
_BATCH = 8
DIRECTIONS = 8
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(count: int, data: Path | None = None, skip: int = 0) -> Tensor:
    """Return float32 [count, 3, 224, 224], normalised as for ImageNet, the first ``skip`` left out.

    Photographs of ``data/photos``, centre-cropped, or without ``data`` structured noise: smooth
    colour fields at several scales with hard-edged rectangles.
    """
    import torch

    raw = _synthetic(count, skip) if data is None else _photos(count, data, skip)
    mean, std = (torch.tensor(each)[:, None, None] for each in (_MEAN, _STD))
    return (raw - mean) / std


def _photos(count: int, data: Path, skip: int) -> Tensor:
    import torch
    from torchvision.io import ImageReadMode, read_image
    from torchvision.transforms.functional import center_crop

    files = sorted((data / "photos").glob("*.jpg"))[skip : skip + count]
    if len(files) < count:
        raise SystemExit(f"there are no {skip + count} photographs in {data / 'photos'}")
    return torch.stack(
        [center_crop(read_image(str(file), ImageReadMode.RGB), [SIZE]) / 255 for file in files]
    )


def _synthetic(count: int, skip: int) -> Tensor:
    import torch
    from torch.nn.functional import interpolate

    chance = torch.Generator().manual_seed(skip)
    made = torch.full((count, 3, SIZE, SIZE), 0.5)
    for cells in (2, 4, 8, 16, 56, SIZE):
        field = torch.randn(count, 3, cells, cells, generator=chance)
        smooth = interpolate(field, (SIZE, SIZE), mode="bilinear", align_corners=False)
        made += smooth * 0.25 * (2 / cells) ** 0.5
    for image in made:
        for _ in range(6):
            top, left, high, wide = torch.randint(8, SIZE // 2, (4,), generator=chance).tolist()
            colour = torch.rand(3, 1, 1, generator=chance)
            image[:, top : top + high, left : left + wide] = colour
    return made.clamp_(0, 1)


def warmed(name: str, data: Path | None = None, count: int = WARMING) -> nn.Module:
    """Return a network of the zoo in eval mode: random weights, fitted to ``count`` images.

    ``squeezenet1_1``, which has neither a BatchNorm nor a linear head, takes its real weights
    from ``data`` where they are there.
    """
    import torch

    torch.manual_seed(0)
    trained = data / "squeezenet1_1_imagenet.pth" if data and name == "squeezenet1_1" else None
    net = build(name, trained if trained and trained.is_file() else None).eval()
    batches = images(count, data, skip=1000 if data is None else 400).split(_BATCH)
    with torch.no_grad():
        _measure_norms(net, batches)
        _read_out(net, batches)
    return net


def build(name: str, weights: Path | None = None) -> nn.Module:
    """Return a network of the zoo, from timm where torchvision does not have it."""
    from torchopt2edge.models.timm_net import timm_net
    from torchopt2edge.models.torchvision_net import torchvision_net

    make = timm_net if name.startswith("tf_") else torchvision_net
    return make(name, weights=str(weights) if weights else None)


def _measure_norms(net: nn.Module, batches: Sequence[Tensor]) -> None:
    """Set every BatchNorm's statistics to the plain mean over the batches, not a moving one."""
    from torch import nn

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    for batch in batches if norms else ():
        net(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.eval()
        norm.momentum = momentum


def _read_out(net: nn.Module, batches: Sequence[Tensor]) -> None:
    """Let the last linear layer read the directions in which the features really differ.

    A random network maps all images to nearly the same features; the maximum of a random head on
    them lies almost anywhere, and int8 noise decides it, which no trained network shows
    (MobileNetV2: 44 % of the images keep their class). Here the first classes are the two ends of
    the features' principal directions (91 %) and the others faint.
    """
    import torch
    from torch import nn

    heads = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not heads:
        return
    seen: list[Tensor] = []
    hook = heads[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for batch in batches:
        net(batch)
    hook.remove()
    features = torch.cat(seen)
    middle = features.mean(0)
    ends = torch.linalg.svd(features - middle, full_matrices=False)[2][:DIRECTIONS]
    heads[-1].weight.mul_(0.01)
    heads[-1].weight[: 2 * DIRECTIONS] = torch.cat([ends, -ends])
    heads[-1].bias.copy_(-heads[-1].weight @ middle)
