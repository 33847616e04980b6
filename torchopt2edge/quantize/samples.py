"""Calibration samples on disk: one array per input, with a manifest of who they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.errors import DataError
from torchopt2edge.types import Facts, Manifest, TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Samples:
    """A folder with ``0.npy``, ``1.npy`` … (input i, shape [count, …]) and ``manifest.json``."""

    path: Path

    @property
    def manifest(self) -> Manifest:
        """Which samples these are."""
        data = json.loads((self.path / "manifest.json").read_text())
        return Manifest(data["split"], tuple(data["hashes"]))

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in the order of the files."""
        return tuple(json.loads((self.path / "manifest.json").read_text())["names"])

    def batches(self, size: int, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Walk the samples in batches of ``size`` (the last may be smaller), read from disk."""
        arrays = {
            name: np.load(self.path / f"{index}.npy", mmap_mode="r")
            for index, name in enumerate(self.names)
        }
        count = min(len(array) for array in arrays.values())
        count = count if limit is None else min(count, limit)
        for at in range(0, count, size):
            yield {
                name: np.array(array[at : min(at + size, count)]) for name, array in arrays.items()
            }


def write_samples(
    source: Iterable[object], inputs: Sequence[TensorSpec], limit: int, split: str, out: Path
) -> Facts:
    """Keep up to ``limit`` samples of an iterable of preprocessed inputs in the folder ``out``.

    An item is a tensor or array, a tuple of them in the inputs' order, a dict by name, or any of
    these with a label behind it; a batch or one sample.

    Raises:
        DataError: no samples, a wrong shape, or a value that is not finite.
    """
    rows: list[list[Array]] = [[] for _ in inputs]
    for item in source:
        for index, array in enumerate(inputs_of(item, inputs).values()):
            rows[index].extend(array[: limit - len(rows[index])])
        if len(rows[0]) >= limit:
            break
    if not rows[0]:
        raise DataError(
            "the calibration set is empty",
            mend="pass an iterable with at least one preprocessed input (a list or a DataLoader)",
        )
    for index, column in enumerate(rows):
        np.save(out / f"{index}.npy", np.stack(column))
    hashes = [sample_hash(parts) for parts in zip(*rows, strict=True)]
    names = [spec.name for spec in inputs]
    record = {"split": split, "names": names, "hashes": hashes}
    (out / "manifest.json").write_text(json.dumps(record))
    return {"count": len(hashes), "split": split}


def sample_hash(parts: Iterable[Array]) -> str:
    """Return the sha256 of one preprocessed sample's bytes, all its inputs in order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()


def check_disjoint(manifest: Manifest, evaluated: Iterable[str]) -> None:
    """Refuse a calibration sample that is also scored.

    Raises:
        DataError: with how many overlap.
    """
    shared, count = set(manifest.hashes) & set(evaluated), len(manifest.hashes)
    if shared:
        raise DataError(
            f"{len(shared)} of {count} calibration samples are also in the evaluation set",
            mend="take the calibration samples from the training split",
        )


def inputs_of(item: object, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return one item of an iterable as a batch by input name, labels left out.

    Raises:
        DataError: as `write_samples`.
    """
    arrays = _arrays(item, inputs)
    batch = {spec.name: _batched(array, spec) for array, spec in zip(arrays, inputs, strict=True)}
    counts = {name: len(array) for name, array in batch.items()}
    if len(set(counts.values())) > 1:
        raise DataError(
            f"an item's inputs hold unequal numbers of samples: {counts}",
            mend="give every input of an item the same batch",
        )
    return batch


def _arrays(item: object, inputs: Sequence[TensorSpec]) -> list[Array]:
    if isinstance(item, Mapping):
        missing = [spec.name for spec in inputs if spec.name not in item]
        if missing:
            raise DataError(f"a calibration item lacks {missing}; it has {sorted(map(str, item))}")
        return [to_numpy(item[spec.name]) for spec in inputs]
    parts = list(item) if isinstance(item, tuple | list) else [item]
    if len(parts) == len(inputs) + 1:
        parts = parts[:-1]
    if len(parts) in (1, 2) and isinstance(parts[0], tuple | list | Mapping):
        return _arrays(parts[0], inputs)  # what is behind it is a label
    if len(parts) != len(inputs):
        raise DataError(
            f"a calibration item has {len(parts)} parts, the model takes {len(inputs)} inputs",
            mend="yield a tensor, a tuple of tensors, a dict by name, or one of them and a label",
        )
    return [to_numpy(part) for part in parts]


def to_numpy(value: object) -> Array:
    """Return an array from a tensor (torch's too) or anything numpy reads."""
    detach = getattr(value, "detach", None)
    if callable(detach):
        value = detach().cpu().numpy()
    return np.asarray(value)


def _batched(array: Array, spec: TensorSpec) -> Array:
    """Give one sample its batch axis; check shape, dtype and finiteness."""
    if array.ndim == len(spec.shape) - 1:
        array = array[None]
    wanted = spec.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        want in (-1, have) for have, want in zip(array.shape[1:], wanted, strict=True)
    )
    if not fits:
        raise DataError(
            f"a sample for input {spec.name!r} has shape {array.shape}, "
            f"the model takes [batch, {', '.join(map(str, wanted))}]",
            mend="preprocess to that shape",
        )
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise DataError(
            f"a sample for input {spec.name!r} holds NaN or infinity", mend="clean the data"
        )
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"a sample for input {spec.name!r} holds {array.dtype}, not numbers",
            mend="preprocess to numbers",
        )
    return array.astype(np.dtype(spec.dtype), copy=False)
