"""What a training needs to go on after it was killed: tensors and plain numbers, one file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from torchopt2edge.errors import TrainError

NAME = "last.pt"


def save(state: dict[str, Any], work: Path) -> None:
    """Write the state into the folder ``work``, whole or not at all."""
    work.mkdir(parents=True, exist_ok=True)
    beside = work / f".{NAME}"
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(work / NAME)


def load(work: Path) -> dict[str, Any] | None:
    """Return the state that lies in ``work``, None when there is none.

    Raises:
        TrainError: it cannot be read.
    """
    path = work / NAME
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise TrainError(
            "the checkpoint of a training cannot be read",
            artifact=path,
            hint=f"rm {path}, and it begins anew",
        ) from error
    return state
