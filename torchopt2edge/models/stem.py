"""Make the first layers of an ImageNet classifier keep the resolution of a small image."""

from __future__ import annotations

from torch import nn

from torchopt2edge.errors import ModelError


def small_stem(net: nn.Module) -> None:
    """Set the stride of the first convolution to 1 and take out an early max pooling, in place.

    Follows the usual CIFAR variant of ImageNet nets: a 32×32 image is not divided by four before
    the first block. The first convolution keeps its shape, so checkpoints still load.

    Raises:
        ModelError: the net has no convolution with a stride of 2 or more at its start.
    """
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or max(first.stride) < 2:
        raise ModelError(
            "this net does not begin with a strided convolution",
            artifact=type(net).__name__,
            mend="leave small_input=false",
        )
    first.stride = (1, 1)
    for name in ("maxpool", "max_pool"):
        if isinstance(getattr(net, name, None), nn.MaxPool2d):
            setattr(net, name, nn.Identity())
            return
    features = getattr(net, "features", None)
    if isinstance(features, nn.Sequential):
        for index, module in enumerate(features[:4]):
            if isinstance(module, nn.MaxPool2d):
                features[index] = nn.Identity()
                return
