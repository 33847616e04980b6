"""Image classifiers from torchvision, with a stem for small images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.pretrained import start
from torchopt2edge.models.stem import small_stem
from torchopt2edge.preprocessing.preprocess import Preprocess


def torchvision_net(
    name: str,
    num_classes: int = 1000,
    weights: str | None = None,
    width: float | None = None,
    small_input: bool = False,
    pretrained: bool = False,
    new_head: bool = False,
) -> nn.Module:
    """Return ``torchvision.models.<name>``, which takes float [N, 3, H, W] and gives logits.

    Args:
        name: such as ``mobilenet_v2``.
        num_classes: outputs of the classifier.
        weights: a file to start from, .pth or .safetensors.
        width: the width multiplier, for the families that have one (MobileNet, ShuffleNet).
        small_input: a stem for images of about 32×32, see `small_stem`.
        pretrained: start from torchvision's newest weights for ImageNet, which are downloaded
            once. Nothing is downloaded otherwise.
        new_head: do not take the classifier of what it starts from.

    Raises:
        ModelError: no such model, no such width, no known stem, weights that cannot be had or
            do not fit.
    """
    import torchvision

    name, extra = _widened(name, width)
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ModelError(
            f"torchvision has no image classifier called {name!r}",
            hint="see torchvision.models.list_models(), such as mobilenet_v2 or resnet18",
        )
    if pretrained and extra:
        raise ModelError(
            f"there are no published weights of {name} with width {width}",
            hint="width=null or pretrained=false",
        )
    if name in ("googlenet", "inception_v3"):
        extra |= {"init_weights": True, "aux_logits": False}
    builder = torchvision.models.get_model_builder(name)
    net: nn.Module = builder(weights=None, num_classes=num_classes, **extra)
    if small_input:
        small_stem(net)
    fetch = (lambda: _published(name)) if pretrained else None
    start(net, num_classes, weights, fetch, new_head)
    return net


def _widened(name: str, width: float | None) -> tuple[str, dict[str, float | bool]]:
    """Return the name and the arguments of a family's member of that width.

    Raises:
        ModelError: the family has no such member.
    """
    if width is None:
        return name, {}
    if re.fullmatch(r"mobilenet_v\d.*", name):
        return name, {} if width == 1.0 else {"width_mult": width}
    if name.startswith("shufflenet_v2"):
        if width not in (0.5, 1.0, 1.5, 2.0):
            raise ModelError(f"there is no {name} of width {width}", hint="0.5, 1.0, 1.5 or 2.0")
        return f"shufflenet_v2_x{width:.1f}".replace(".", "_"), {}
    raise ModelError(
        f"{name} has no width multiplier",
        hint="leave `width` out; MobileNets, ShuffleNets and the CIFAR ResNets have one",
    )


def _published(name: str) -> Mapping[str, Tensor]:
    """Fetch torchvision's best weights of a model, once.

    Raises:
        ModelError: there are none, or they cannot be downloaded.
    """
    import torch

    best = _best(name)
    try:
        state: Mapping[str, Tensor] = best.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        file = f"{torch.hub.get_dir()}/checkpoints/{best.url.rpartition('/')[2]}"
        raise ModelError(
            f"the weights of {name} cannot be downloaded: {error}",
            artifact=best.url,
            hint=f"download that file elsewhere to {file}, or pretrained=false weights=<file>",
        ) from error
    return state


def _best(name: str) -> Any:
    import torchvision

    kinds = list(torchvision.models.get_model_weights(name))
    if not kinds:
        raise ModelError(f"torchvision has no weights of {name}", hint="pretrained=false")
    return type(kinds[0]).DEFAULT


def published_preprocess(name: str) -> Preprocess:
    """Return what torchvision's weights of a model expect to have been done to an image.

    Raises:
        ModelError: torchvision has no weights of it.
    """
    how = _best(name).transforms()
    side = int(how.crop_size[0])
    return Preprocess(
        tuple(how.mean),
        tuple(how.std),
        resize=int(how.resize_size[0]),
        crop=(side, side),
        interpolation=how.interpolation.value,
    )
