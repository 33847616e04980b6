"""Cut a net that is being trained: the optimizer's memory loses the channels that the net loses."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from torchopt2edge.models.cut_plan import Plan

_EXACT = 2**24  # integers that float32 can hold


def cut(net: nn.Module, plan: Plan, *optimizers: torch.optim.Optimizer) -> None:
    """Cut ``net`` in place; gradients and the optimizers' state (momentum, moments) follow.

    An optimizer keeps its groups and its place in any schedule; the new parameters take the
    places of the old ones. What became of each weight is read off a twin whose weights are their
    own positions, so it holds for whatever the plan does.

    Raises:
        ModelError: the plan does not fit the net.
    """
    if not plan.cuts:
        return
    before = dict(net.named_parameters(remove_duplicate=False))
    grads = {name: parameter.grad for name, parameter in before.items()}
    places = _places(net, plan)
    plan.apply(net)
    moved: dict[Tensor, tuple[nn.Parameter, Tensor]] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        old, place = before[name], places[name]
        grad = grads[name]
        if parameter is old and parameter.shape == place.shape and place.numel() == old.numel():
            continue
        parameter.requires_grad_(old.requires_grad)
        parameter.grad = None if grad is None else _picked(grad, place)
        moved[old] = (parameter, place)
    for optimizer in optimizers:
        _follow(optimizer, moved)


def trains(optimizer: torch.optim.Optimizer, net: nn.Module) -> bool:
    """Tell whether some of the net's parameters are the optimizer's."""
    mine = {id(parameter) for parameter in net.parameters()}
    return any(id(p) in mine for group in optimizer.param_groups for p in group["params"])


def uncut(net: nn.Module, whole: nn.Module) -> None:
    """Give ``net`` the shapes of ``whole`` back, a copy made before it was cut; weights are its."""
    for module, before in zip(net.modules(), whole.modules(), strict=True):
        for name, value in vars(before).items():
            if name in ("_parameters", "_buffers") or isinstance(value, int | tuple):
                setattr(module, name, value)


def _places(net: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Return for every parameter the flat positions in the old one of what is left of it."""
    twin = copy.deepcopy(net).cpu()
    large = max((p.numel() for p in twin.parameters()), default=0) >= _EXACT
    twin = twin.double() if large else twin.float()
    with torch.no_grad():
        for parameter in twin.parameters():
            positions = torch.arange(parameter.numel(), dtype=parameter.dtype)
            parameter.copy_(positions.view(parameter.shape))
    plan.apply(twin)
    named = twin.named_parameters(remove_duplicate=False)
    return {name: parameter.detach().long() for name, parameter in named}


def _picked(values: Tensor, place: Tensor) -> Tensor:
    return values.reshape(-1)[place.to(values.device)].clone()


def _follow(
    optimizer: torch.optim.Optimizer, moved: dict[Tensor, tuple[nn.Parameter, Tensor]]
) -> None:
    for group in optimizer.param_groups:
        group["params"] = [moved[p][0] if p in moved else p for p in group["params"]]
    for old, (new, place) in moved.items():
        if old not in optimizer.state:
            continue
        state = optimizer.state.pop(old)
        optimizer.state[new] = {
            key: _picked(value, place)
            if isinstance(value, Tensor) and value.shape == old.shape
            else value
            for key, value in state.items()
        }
