"""What a net scores at its task, for the facts of a stage and to judge its epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchopt2edge.data.dataset import DataSet, Samples, loader
from torchopt2edge.errors import DataError
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Facts

Array = np.ndarray[Any, Any]


def per_sample(
    net: nn.Module,
    samples: Samples,
    task: Task,
    device: torch.device | None = None,
    batch_size: int = 128,
) -> dict[str, Array]:
    """Return the task's scores [N] by name, in the order of the samples; the net is put in eval."""
    found: list[dict[str, Array]] = []
    net.eval()
    with torch.no_grad():
        for inputs, targets in loader(samples, batch_size, shuffle=False):
            outputs = _first(net(inputs.to(device) if device is not None else inputs))
            found.append(task.metric(outputs.float().cpu().numpy(), np.asarray(targets)))
    names = found[0] if found else {}
    return {name: np.concatenate([one[name] for one in found]) for name in names}


def scores(
    net: nn.Module, samples: Samples, task: Task, device: torch.device | None = None
) -> tuple[str, float]:
    """Return the name and the mean of the task's first score."""
    found = per_sample(net, samples, task, device)
    if not found:
        raise DataError("there are no samples to score on")
    name = next(iter(found))
    return name, float(found[name].mean())


def score_test(net: nn.Module, data: DataSet, task: Task) -> Facts:
    """Return ``{"<metric>_test": mean}``, or why there is none when the data has no test split."""
    try:
        test = data.split("test")
    except DataError as error:
        return {"test_absent": error.what}
    name, value = scores(net, test, task)
    return {f"{name}_test": round(value, 3)}


def _first(outputs: Any) -> Tensor:
    """Return a net's first output."""
    while not isinstance(outputs, Tensor):
        outputs = next(iter(outputs.values() if isinstance(outputs, dict) else outputs))
    return outputs
