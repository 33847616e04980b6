"""What a net's weights must be before they are cut or zeroed: its own, and numbers."""

from __future__ import annotations

from torch import Tensor, nn

from torchopt2edge.errors import TrainError

COMPUTED = "its weight is computed whenever it is used (weight norm, spectral norm, a mask)"
PLAIN = (
    "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') makes it plain; "
    "remove_weight_norm or prune.remove, where those made it"
)


def layers_of(net: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of ``net`` by name."""
    kinds = nn.modules.conv._ConvNd | nn.Linear
    return {name: module for name, module in net.named_modules() if isinstance(module, kinds)}


def computed(net: nn.Module) -> set[str]:
    """Return the layers whose weight is computed: what is written into it does not stay."""
    return {
        name for name, layer in layers_of(net).items() if layer._parameters.get("weight") is None
    }


def shared(net: nn.Module) -> dict[str, str]:
    """Return the layers whose weight is another layer's too, and which one's."""
    first: dict[Tensor, str] = {}
    found: dict[str, str] = {}
    for name, layer in layers_of(net).items():
        weight = layer._parameters.get("weight")
        if weight is not None and first.setdefault(weight, name) != name:
            found |= {name: first[weight], first[weight]: name}
    return found


def refuse_broken(net: nn.Module, step: int) -> None:
    """Refuse to choose among weights that are no numbers.

    Raises:
        TrainError: some are not finite; it names the first.
    """
    for name, parameter in net.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise TrainError(
                f"after {step} steps {name} is not finite: the loss was no number before",
                hint="go on from a checkpoint with a smaller learning rate, or clip gradients",
            )
