"""The net inside what compiles it or spreads it over devices."""

from __future__ import annotations

from torch import nn

_INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "_FabricModule": "module",
    "AveragedModel": "module",
}


def wrapper_of(net: nn.Module) -> str | None:
    """Return the name of what ``net`` is wrapped in, None for a net itself."""
    kind = type(net).__name__
    return kind if kind in _INSIDE else None


def unwrapped(net: nn.Module) -> nn.Module:
    """Return the net itself; a child that is called ``module`` is no wrapping."""
    while (kind := wrapper_of(net)) is not None:
        net = getattr(net, _INSIDE[kind])
    return net
