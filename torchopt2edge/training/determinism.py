"""What a training asks of the libraries: no advice about themselves, kernels that repeat."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_HUSHED = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
)
_ADVICE = (
    ".*does not have many workers.*",  # small data in memory: workers cost more
    ".*GPU available but not used.*",
    ".*``noload`` loader strategy is deprecated.*",  # mlflow's own call of sqlalchemy
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",  # its own call of torch
)


@contextmanager
def quiet() -> Iterator[None]:
    """Hush what Lightning says of its own features: it is not about this run."""
    levels = {name: logging.getLogger(name).level for name in _HUSHED}
    for name in _HUSHED:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for advice in _ADVICE:
                warnings.filterwarnings("ignore", message=advice)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Allow only kernels that give the same bits again, where that is wanted."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
