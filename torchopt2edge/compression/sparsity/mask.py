"""Which weights are kept: masks by magnitude."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from torchopt2edge.compression.sparsity.spec import Sparsify
from torchopt2edge.errors import ConfigError
from torchopt2edge.training.weight_checks import COMPUTED, PLAIN, computed, layers_of


def prunable(net: nn.Module, ignore: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the weights of convolutions and linear layers by the layer's name, less ``ignore``.

    Raises:
        ConfigError: a pattern of ``ignore`` names no layer (names the nearest), or a weight is
            computed, so that zeros would not stay in it.
    """
    found = layers_of(net)
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in found):
            near = difflib.get_close_matches(pattern, found, 3) or list(found)[:3]
            raise ConfigError(f"no layer is called {pattern!r}", hint=f"such as {', '.join(near)}")
    kept = {name for name in found if any(fnmatchcase(name, pattern) for pattern in ignore)}
    for name in sorted(computed(net) - kept):
        raise ConfigError(
            f"zeros do not stay in {name!r}: {COMPUTED}", hint=f"{PLAIN}; or ignore=({name!r},)"
        )
    return {name: _weight(layer) for name, layer in found.items() if name not in kept}


def masks_of(weights: Mapping[str, Tensor], spec: Sparsify, share: float) -> dict[str, Tensor]:
    """Return which weights stay, as bool of the weights' shapes, when ``share`` of them go.

    The smallest magnitudes go (Han et al. 2015): of each layer, or of all together. Under a
    pattern ``n:m`` the n largest of every m along the inputs stay, once ``share`` is that of
    the pattern (Mishra et al. 2021 for 2:4); before, the smallest go as without one.
    """
    pattern = pattern_of(spec)
    if pattern is not None and share >= 1 - pattern[0] / pattern[1] - 1e-9:
        return {name: _blocks(weight, *pattern) for name, weight in weights.items()}
    if spec.scope == "layer":
        return {name: _largest(weight.detach().abs(), share) for name, weight in weights.items()}
    sizes = [weight.numel() for weight in weights.values()]
    joined = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    parts = torch.split(_largest(joined, share), sizes)
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def final_share(spec: Sparsify) -> float:
    """Return the share of zeros at the end: the pattern's, where there is one."""
    pattern = pattern_of(spec)
    return spec.sparsity if pattern is None else 1 - pattern[0] / pattern[1]


def pattern_of(spec: Sparsify) -> tuple[int, int] | None:
    """Return (n, m) of a pattern ``n:m``.

    Raises:
        ConfigError: it is none.
    """
    if spec.pattern is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", spec.pattern)
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ConfigError(f"{spec.pattern!r} is no pattern", hint="pattern=2:4, or null")
    return int(found[1]), int(found[2])


def zeros(net: nn.Module) -> dict[str, float]:
    """Return the share of zero weights of every convolution and linear layer, and of ``all``."""
    weights = {name: _weight(layer) for name, layer in layers_of(net).items()}
    counted = {name: float((w == 0).float().mean()) for name, w in weights.items()}
    total = sum(w.numel() for w in weights.values())
    gone = sum(int((w == 0).sum()) for w in weights.values())
    return {**counted, "all": gone / max(1, total)}


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _largest(magnitudes: Tensor, share: float) -> Tensor:
    """Keep all but the ``share`` smallest; of equal ones the earlier go first."""
    gone = round(share * magnitudes.numel())
    keep = torch.ones(magnitudes.numel(), dtype=torch.bool, device=magnitudes.device)
    keep[magnitudes.flatten().argsort(stable=True)[:gone]] = False
    return keep.view(magnitudes.shape)


def _blocks(weight: Tensor, n: int, m: int) -> Tensor:
    """Keep the n largest of every m inputs; a layer whose inputs m does not divide stays dense."""
    inputs = weight.shape[1]
    if inputs % m:
        return torch.ones_like(weight, dtype=torch.bool)
    last = weight.detach().abs().movedim(1, -1)
    blocks = last.reshape(*last.shape[:-1], inputs // m, m)
    rank = blocks.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < n).reshape(last.shape).movedim(-1, 1).contiguous()
