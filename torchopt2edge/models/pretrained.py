"""What a net starts from: published weights, a file, and a classifier of its own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.artifact import load_state, read_state

Published = Callable[[], Mapping[str, Tensor]]


def start(
    net: nn.Module,
    num_classes: int,
    weights: str | None,
    published: Published | None,
    new_head: bool,
) -> None:
    """Load into ``net`` what it starts from, in place; nothing when there is neither.

    ``weights`` is a file (.pth of tensors alone, or .safetensors), ``published`` fetches the
    state of the net that somebody trained. Their classifier must have ``num_classes`` outputs;
    with ``new_head`` it is not taken at all, and the net's own stays freshly initialised.

    Raises:
        ModelError: both are given, or what is loaded does not fit.
    """
    if weights is not None and published is not None:
        raise ModelError(
            "a net cannot start from a file and from published weights", hint="pretrained: false"
        )
    if weights is not None:
        state, source = dict(read_state(Path(weights))), weights
    elif published is not None:
        state, source = dict(published()), "the published weights"
    elif new_head:
        raise ModelError(
            "new_head keeps the rest of a checkpoint, and there is none",
            hint="weights=<file>, pretrained=true, or new_head=false",
        )
    else:
        return
    own = net.state_dict()
    head = f"{head_of(net, num_classes)}."
    other = [k for k, v in state.items() if k in own and own[k].shape != v.shape]
    if new_head:
        state |= {key: value for key, value in own.items() if key.startswith(head)}
    elif other and all(key.startswith(head) for key in other):
        raise ModelError(
            f"the classifier of the checkpoint has {len(state[other[0]])} outputs, "
            f"the model {num_classes}",
            artifact=source,
            hint=f"new_head=true starts a new classifier, num_classes={len(state[other[0]])} "
            "takes that one",
        )
    load_state(net, state, source)


def head_of(net: nn.Module, num_classes: int) -> str:
    """Return the name of the classifier: the last layer with that many outputs.

    Raises:
        ModelError: there is none.
    """
    found = ""
    for name, module in net.named_modules():
        if num_classes in (
            getattr(module, "out_features", None),
            getattr(module, "out_channels", None),
        ):
            found = name
    if not found:
        raise ModelError(f"the net has no layer with {num_classes} outputs to classify by")
    return found


def weights_digest(factory: Callable[..., Any] | None) -> str:
    """Return the sha256 of the file that a factory's ``weights`` names, "" without one.

    The store's keys hold it beside the path: a file that was written again is another one.

    Raises:
        ModelError: the file is missing.
    """
    kwargs: dict[str, Any] = {}
    while isinstance(factory, functools.partial):
        kwargs, factory = {**factory.keywords, **kwargs}, factory.func
    path = kwargs.get("weights")
    if not isinstance(path, str):
        return ""
    if not Path(path).is_file():
        raise ModelError("a checkpoint is missing", artifact=path, hint="check the path")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
