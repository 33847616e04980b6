"""Labelled samples drawn from a set that is too large for a device, kept on disk for one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.errors import EvaluateError
from torchopt2edge.samples.calibration_set import inputs_of
from torchopt2edge.samples.npy_stream import Column, rows
from torchopt2edge.types import TensorSpec

Array = np.ndarray[Any, Any]

_SEED = 0  # the same samples in every run
_BATCH = 64


@dataclass(frozen=True)
class Drawn:
    """Labelled samples drawn from ``of``, on disk: the same ones for every candidate."""

    folder: Path
    names: tuple[str, ...]
    of: int

    def __iter__(self) -> Iterator[tuple[dict[str, Array], Array]]:
        """Walk (inputs, targets) in batches, read from disk."""
        files = [f"{at}.npy" for at in range(len(self.names))]
        columns = [rows(self.folder / file, _BATCH) for file in (*files, "targets.npy")]
        for *arrays, targets in zip(*columns, strict=True):
            yield dict(zip(self.names, arrays, strict=True)), targets


def draw(
    pairs: Iterable[tuple[Any, Array]],
    inputs: tuple[TensorSpec, ...],
    count: int,
    limit: int,
    folder: Path,
) -> Drawn:
    """Keep ``limit`` of ``count`` labelled samples in a folder, drawn with one fixed seed.

    ``pairs`` are batches of (inputs, targets), in the order in which they were counted.

    Raises:
        EvaluateError: the folder cannot hold them, or the loader no longer yields what it did.
    """
    chosen = np.sort(np.random.default_rng(_SEED).permutation(count)[:limit])
    seen = 0
    try:
        with ExitStack() as closing:
            columns = [
                closing.enter_context(Column(folder / file, name))
                for file, name in (
                    *((f"{at}.npy", spec.name) for at, spec in enumerate(inputs)),
                    ("targets.npy", "targets"),
                )
            ]
            for given, targets in pairs:
                arrays = [*inputs_of(given, inputs).values(), targets]
                size = min(map(len, arrays))
                mine = chosen[(chosen >= seen) & (chosen < seen + size)] - seen
                seen += size
                for column, array in zip(columns, arrays if len(mine) else (), strict=False):
                    column.extend(array[mine])
    except OSError as error:
        if not str(error.filename or folder).startswith(str(folder)):
            raise  # the loader's own: a file that it cannot read
        raise EvaluateError(
            f"the samples to score cannot be kept: {error.strerror or error}",
            artifact=folder,
            hint="free some space there, or score fewer: evaluate_samples=100",
        ) from error
    if seen != count:
        raise EvaluateError(
            f"the evaluation set had {count} labelled samples and now has {seen}",
            hint="pass a loader that yields one label per sample, and the same ones every time",
        )
    return Drawn(folder, tuple(spec.name for spec in inputs), count)
