"""Make the first layers of an ImageNet classifier keep the resolution of a small image."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.eval_mode import modes_kept, zeros

_SHRINKING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_KEPT = 4  # the factor that the stem no longer shrinks by
_PROBE = 224


def small_stem(net: nn.Module) -> None:
    """Take out the first two halvings of the resolution, in place.

    A net for 224×224 then ends with 4×4 positions for an image of 32×32, as the usual CIFAR
    variants do, where it would end with one. Convolutions get a stride of 1 and keep their
    shape, so checkpoints still load; poolings go. Branches that halve side by side change together.

    Raises:
        ModelError: nothing shrinks the image twice at the start.
    """
    left = _KEPT
    for group in _halvings(net):
        if left < 2:
            break
        left //= max(_stride(module) for _, module in group)
        for name, module in group:
            _keep(net, name, module)
    if left > 1:
        raise ModelError(
            "this net does not begin by shrinking its image by four",
            artifact=type(net).__name__,
            hint="leave small_input=false",
        )


def _halvings(net: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """Return the layers that shrink an image, those of one resolution together, largest first."""
    seen: dict[int, list[tuple[str, nn.Module]]] = {}

    def note(name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        seen.setdefault(given[0].shape[-1], []).append((name, module))

    hooks = [
        module.register_forward_pre_hook(lambda m, x, name=name: note(name, m, x))
        for name, module in net.named_modules()
        if isinstance(module, _SHRINKING) and _stride(module) > 1
    ]
    try:
        with torch.no_grad(), modes_kept(net):
            net.eval()(zeros(net, 1, (3, _PROBE, _PROBE)))
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[size] for size in sorted(seen, reverse=True)]


def _stride(module: nn.Module) -> int:
    stride: Any = module.stride
    return int(max(stride) if isinstance(stride, tuple | list) else stride)


def _keep(net: nn.Module, name: str, module: nn.Module) -> None:
    """Make one layer keep the resolution."""
    if isinstance(module, nn.Conv2d):
        module.stride = (1, 1)
        return
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, nn.Identity())
