"""Image classifiers from torchvision, with a stem for small images."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.stem import small_stem


def torchvision_net(
    name: str,
    num_classes: int = 1000,
    weights: str | None = None,
    width: float | None = None,
    small_input: bool = False,
) -> nn.Module:
    """Return ``torchvision.models.<name>``, which takes float [N, 3, H, W] and gives logits.

    Args:
        name: such as ``mobilenet_v2``.
        num_classes: outputs of the classifier.
        weights: path of a state dict; None initialises freshly. Nothing is downloaded.
        width: the width multiplier, for the families that have one (MobileNet).
        small_input: stem at full resolution, for images of about 32×32.

    Raises:
        ModelError: no such model, no width multiplier, no known stem, or a checkpoint that
            cannot be loaded.
    """
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ModelError(
            f"torchvision has no image classifier called {name!r}",
            mend="see torchvision.models.list_models(), such as mobilenet_v2 or resnet18",
        )
    extra: dict[str, float | bool] = {}
    if width is not None:
        if not name.startswith("mobilenet"):
            raise ModelError(f"{name} has no width multiplier", mend="leave `width` out")
        extra["width_mult"] = width
    if name in ("googlenet", "inception_v3"):
        extra |= {"init_weights": True, "aux_logits": False}
    builder = torchvision.models.get_model_builder(name)
    net: nn.Module = builder(weights=None, num_classes=num_classes, **extra)
    if small_input:
        small_stem(net)
    if weights is not None:
        from torchopt2edge.models.artifact import load_checkpoint

        load_checkpoint(net, Path(weights))
    return net
