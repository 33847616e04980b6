"""Count what a net costs: multiply-accumulates and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from torchopt2edge.models.eval_mode import modes_kept, zeros


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer: it is applied at ``positions`` places per sample.

    ``taps`` is the number of kernel positions (9 for 3×3, 1 for a linear layer).
    """

    inputs: int
    outputs: int
    groups: int
    taps: int
    positions: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return self.positions * self.params

    @property
    def params(self) -> int:
        """Weights, without biases."""
        return self.taps * self.outputs * self.inputs // self.groups


def layers(net: nn.Module, shape: tuple[int, ...]) -> dict[str, Layer]:
    """Return the convolutions and linear layers that one sample of ``shape`` runs, by name.

    A layer that runs more than once counts once for each run. Products that are no layers
    (attention scores) are not seen, nor are biases, normalisations and activations: like the
    numbers in papers on mobile nets, these are the multiply-accumulates of the layers.
    """
    found: dict[str, Layer] = {}
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            hooks.append(module.register_forward_hook(_Recorder(found, name)))
    try:
        with torch.no_grad(), modes_kept(net):
            net.eval()(zeros(net, 1, shape))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass(frozen=True)
class _Recorder:
    """A forward hook that notes its layer under ``name``."""

    found: dict[str, Layer]
    name: str

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            layer = Layer(module.in_features, module.out_features, 1, 1, output[0, ..., 0].numel())
        else:
            assert isinstance(module, nn.modules.conv._ConvNd)
            over = inputs[0] if module.transposed else output
            sizes = (module.in_channels, module.out_channels, module.groups)
            layer = Layer(*sizes, prod(module.kernel_size), over[0, 0].numel())
        before = self.found.get(self.name)
        if before is not None:
            fields = (layer.inputs, layer.outputs, layer.groups, layer.taps)
            layer = Layer(*fields, layer.positions + before.positions)
        self.found[self.name] = layer


def macs(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of one sample of ``shape`` (without the batch)."""
    return sum(layer.macs for layer in layers(net, shape).values())


def params(net: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in net.parameters())
