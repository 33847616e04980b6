"""Image classifiers from timm, with a stem for small images."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.stem import small_stem


def timm_net(
    name: str,
    num_classes: int = 1000,
    weights: str | None = None,
    small_input: bool = False,
) -> nn.Module:
    """Return ``timm.create_model(name)``, which takes float [N, 3, H, W] and gives logits.

    Args:
        name: such as ``efficientnet_lite0``.
        num_classes: outputs of the classifier.
        weights: path of a state dict; None initialises freshly. Nothing is downloaded.
        small_input: stem at full resolution, for images of about 32×32.

    Raises:
        ModelError: no such model, no known stem, or a checkpoint that cannot be loaded.
    """
    import timm

    if not timm.is_model(name):
        raise ModelError(
            f"timm has no model called {name!r}",
            mend="see timm.list_models('*lite*'), such as efficientnet_lite0",
        )
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    if small_input:
        small_stem(net)
    if weights is not None:
        from torchopt2edge.models.artifact import load_checkpoint

        load_checkpoint(net, Path(weights))
    return net
