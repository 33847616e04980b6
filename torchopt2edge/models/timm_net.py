"""Image classifiers from timm, with a stem for small images."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.pretrained import start
from torchopt2edge.models.stem import small_stem
from torchopt2edge.preprocessing.preprocess import Preprocess


def timm_net(
    name: str,
    num_classes: int = 1000,
    weights: str | None = None,
    width: float | None = None,
    small_input: bool = False,
    pretrained: bool = False,
    new_head: bool = False,
) -> nn.Module:
    """Return ``timm.create_model(name)``, which takes float [N, 3, H, W] and gives logits.

    Args:
        name: such as ``efficientnet_lite0``; a tag behind a dot chooses among its weights.
        num_classes: outputs of the classifier.
        weights: a file to start from, .pth or .safetensors.
        width: the width multiplier, where timm has that member of the family
            (``mobilenetv4_conv_small`` has 0.35 and 0.5).
        small_input: a stem for images of about 32×32, see `small_stem`.
        pretrained: start from the weights that timm has, which are downloaded once. Nothing is
            downloaded otherwise.
        new_head: do not take the classifier of what it starts from.

    Raises:
        ModelError: no such model, no such width, no known stem, weights that cannot be had or
            do not fit.
    """
    import timm

    if not timm.is_model(name):
        raise ModelError(
            f"timm has no model called {name!r}",
            hint="see timm.list_models('*lite*'), such as efficientnet_lite0",
        )
    name = _widened(name, width)
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    if small_input:
        small_stem(net)
    start(net, num_classes, weights, (lambda: _published(name)) if pretrained else None, new_head)
    return net


def _widened(name: str, width: float | None) -> str:
    """Return the member of a family that has this width: timm names them apart.

    Raises:
        ModelError: there is none; names those there are.
    """
    import timm

    if width is None or width == 1.0:
        return name
    family = re.sub(r"_100$", "", name)
    wanted = f"{family}_{round(100 * width):03d}"
    if not timm.is_model(wanted):
        known = [one for one in timm.list_models(f"{family}_*") if re.search(r"_\d{3}$", one)]
        raise ModelError(
            f"timm has no {name} of width {width}",
            hint=f"one of {', '.join(known)}" if known else "leave `width` out",
        )
    return wanted


def _published(name: str) -> Mapping[str, Tensor]:
    """Fetch the weights that timm names for a model, once.

    Raises:
        ModelError: there are none, or they cannot be downloaded.
    """
    import timm
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    _check_published(name)
    try:
        source: nn.Module = timm.create_model(name, pretrained=True)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, RuntimeError) as error:
        where = timm.get_pretrained_cfg(name)
        raise ModelError(
            f"the weights of {name} cannot be downloaded: {str(error).splitlines()[0]}",
            artifact=where.hf_hub_id or where.url,
            hint="download model.safetensors elsewhere, then pretrained=false weights=<file>",
        ) from error
    return source.state_dict()


def _check_published(name: str) -> None:
    import timm

    if not timm.models.is_model_pretrained(name):
        near = ", ".join(timm.list_pretrained(f"*{name}*")[:4])
        raise ModelError(
            f"timm has no weights of {name}",
            hint=f"name: {near}" if near else "pretrained=false",
        )


def published_preprocess(name: str) -> Preprocess:
    """Return what timm's weights of a model expect to have been done to an image.

    Raises:
        ModelError: timm has no weights of it.
    """
    import timm

    _check_published(name)
    cfg = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    side = int(cfg["input_size"][-1])
    return Preprocess(
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        resize=int(side / cfg["crop_pct"]),
        crop=(side, side),
        interpolation=cfg["interpolation"],
    )
