"""What teachers said of every view of every sample, kept on disk.

A file of float32 [views, samples, …] and a file with one byte per row that says whether it was
filled; both are mapped, so that a training of any size needs no more memory for it. A row counts
as filled only after its data are on disk: a run that is killed leaves no row that lies.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchopt2edge.training.batch import Batch

_UNFLUSHED = 4096


class Cache:
    """Rows by (view, index) in a folder whose name says what they depend on.

    ``views`` and ``samples`` are how many there can be; later views run the teacher.
    """

    def __init__(self, folder: Path, views: int, samples: int) -> None:
        self.folder, self.views, self.samples = folder, views, samples
        self.rows: np.memmap[Any, Any] | None = None
        self.filled: np.memmap[Any, Any] | None = None
        self.fresh: list[tuple[int, Any]] = []
        self.asked = self.found = 0

    def outputs(self, batch: Batch, say: Callable[[Batch], Tensor]) -> Tensor:
        """Return the teachers' outputs for a batch: kept ones, or those that ``say`` gives now."""
        view, index = batch.view, batch.index
        assert view is not None
        assert index is not None
        if view >= self.views:
            return say(batch)
        places = index.cpu().numpy()
        self.asked += 1
        if self.rows is None:
            self._open(None)
        if self.rows is not None and self.filled is not None and self.filled[view, places].all():
            self.found += 1
            return torch.from_numpy(np.array(self.rows[view, places])).to(batch.inputs.device)
        said = say(batch)
        self._keep(view, places, said)
        return said

    def flush(self) -> None:
        """Write the rows, then say that they are there."""
        if self.rows is None or self.filled is None or not self.fresh:
            return
        self.rows.flush()
        for view, places in self.fresh:
            self.filled[view, places] = 1
        self.filled.flush()
        self.fresh.clear()

    def _keep(self, view: int, places: Any, said: Tensor) -> None:
        if self.rows is None:
            self._open(tuple(said.shape[1:]))
        assert self.rows is not None
        self.rows[view, places] = said.float().cpu().numpy()
        self.fresh.append((view, places))
        if sum(len(one) for _, one in self.fresh) >= _UNFLUSHED:
            self.flush()

    def _open(self, shape: tuple[int, ...] | None) -> None:
        """Map the files; without a ``shape`` only those that are there."""
        note = self.folder / "shape.json"
        if not note.is_file():
            if shape is None:
                return
            self._create(shape, note)
        whole = tuple(json.loads(note.read_text()))
        self.rows = np.memmap(self.folder / "rows.f32", np.float32, "r+", shape=whole)
        self.filled = np.memmap(self.folder / "filled.u8", np.uint8, "r+", shape=whole[:2])

    def _create(self, shape: tuple[int, ...], note: Path) -> None:
        whole = (self.views, self.samples, *shape)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, kind, size in (
            ("rows.f32", np.float32, whole),
            ("filled.u8", np.uint8, whole[:2]),
        ):
            np.memmap(self.folder / name, kind, "w+", shape=size).flush()
        beside = note.with_suffix(".new")
        beside.write_text(json.dumps(whole))
        beside.rename(note)  # last: files without it are begun anew
