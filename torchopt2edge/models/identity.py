"""The identity of a live module: its weights, its structure, and the code that runs it."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from torchopt2edge.store import source_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def module_digest(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> str:
    """Return a sha256 that changes when the exported graph would.

    It covers the state dict's bytes, the printed structure, the source files that define the
    classes of all its modules, and the shapes and dtypes of the example inputs.
    """
    total = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        total.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    classes = {type(module) for module in model.modules()}
    for cls in sorted(classes, key=lambda c: f"{c.__module__}.{c.__qualname__}"):
        source = source_of(cls)
        # Code that lies in no file (a notebook's) may change unseen: such an export is not reused.
        total.update(f"{cls.__module__}.{cls.__qualname__}{source or os.urandom(16)!r}".encode())
    for tensor in example_inputs:
        total.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    return total.hexdigest()
