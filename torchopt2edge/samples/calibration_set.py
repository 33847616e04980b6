"""Calibration samples on disk: one array per input, with a manifest of who they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.errors import DataError, NoSamples
from torchopt2edge.preprocessing.preprocess import Preprocess, apply
from torchopt2edge.samples.npy_stream import Column, rows
from torchopt2edge.samples.raw_images import ready
from torchopt2edge.types import Facts, Manifest, TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Samples:
    """A folder with ``0.npy``, ``1.npy`` … (input i, shape [count, …]) and ``manifest.json``.

    ``labels.npy`` (int64 [count]) is there when every sample came with one.
    """

    path: Path

    @property
    def manifest(self) -> Manifest:
        """Which samples these are."""
        return Manifest.from_json(json.loads((self.path / "manifest.json").read_text()))

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in the order of the files."""
        return tuple(json.loads((self.path / "manifest.json").read_text())["names"])

    @property
    def labels(self) -> Array | None:
        """One int64 per sample, None when they came without."""
        file = self.path / "labels.npy"
        return np.load(file) if file.is_file() else None

    def feeds(self, size: int, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Walk the samples as the graph takes them; of a model without a batch, one by one."""
        for batch in self.batches(1 if self.whole else size, limit):
            yield as_fed(batch, self.whole)

    @cached_property
    def whole(self) -> frozenset[str]:
        """The inputs whose tensors have no axis for the batch."""
        manifest = json.loads((self.path / "manifest.json").read_text())
        return frozenset(manifest.get("whole", ()))

    def batches(self, size: int, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Walk the samples in batches of ``size`` (the last may be smaller), read from disk.

        The first axis of each array is that of the samples.
        """
        names = self.names
        columns = [rows(self.path / f"{at}.npy", size, limit) for at in range(len(names))]
        for batch in zip(*columns, strict=True):
            yield dict(zip(names, batch, strict=True))


def as_fed(batch: Mapping[str, Array], whole: Collection[str]) -> dict[str, Array]:
    """Return one batch as the graph takes it: without the axis that some inputs have not."""
    return {name: np.asarray(array[0]) if name in whole else array for name, array in batch.items()}


def write_samples(
    source: Iterable[object],
    inputs: Sequence[TensorSpec],
    limit: int,
    split: str,
    out: Path,
    seed: int | None = None,
    skip: int = 0,
) -> Facts:
    """Keep up to ``limit`` samples of an iterable in the folder ``out``, behind the first ``skip``.

    An item is a tensor or array, a tuple of them in the inputs' order, a dict by name, or any of
    these with a label behind it; a batch or one sample; preprocessed, or raw (`raw_images`).
    ``seed`` is what they were drawn with, None when they were not drawn.

    Raises:
        DataError: no samples, a wrong shape, or a value that is not finite.
    """
    first, hashes = skip, list[str]()
    labels: list[Array] | None = []
    with ExitStack() as closing:
        columns = [
            closing.enter_context(Column(out / f"{index}.npy", spec.name))
            for index, spec in enumerate(inputs)
        ]
        for item in source:
            batch, label = _read(item, inputs)
            count = len(next(iter(batch.values())))
            taken = slice(min(skip, count), min(skip, count) + limit - len(hashes))
            skip -= min(skip, count)
            kept = [array[taken] for array in batch.values()]
            for column, array in zip(columns, kept, strict=True):
                column.extend(array)
            labels = _joined(labels, label, count, taken)
            hashes += [sample_hash(parts) for parts in zip(*kept, strict=True)]
            if len(hashes) >= limit:
                break
    if not hashes:
        raise NoSamples(
            f"the {split} set is empty",
            hint=f"pass an iterable with at least {first + 1} samples (a list or a DataLoader)",
        )
    if labels is not None:
        np.save(out / "labels.npy", np.concatenate(labels))
    record = {
        "split": split,
        "names": [spec.name for spec in inputs],
        "hashes": hashes,
        # An array of floats is by definition what this object would have made of the raw image.
        "preprocessing": {s.name: s.preprocess.to_json() for s in inputs if s.preprocess},
        "seed": seed,
        "whole": [spec.name for spec in inputs if spec.whole],
    }
    (out / "manifest.json").write_text(json.dumps(record))
    return {"count": len(hashes), "split": split, "labelled": labels is not None}


def _joined(
    labels: list[Array] | None, label: object, count: int, taken: slice
) -> list[Array] | None:
    """Append a batch's labels; None once a batch has not one whole number per sample."""
    if labels is None or label is None:
        return None
    try:
        found = np.atleast_1d(to_numpy(label))
    except ValueError:  # boxes, sentences: ragged targets are no labels
        return None
    if found.dtype.kind not in "iu" or found.shape != (count,):
        return None
    return [*labels, found[taken].astype(np.int64)]


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
            hint="take the calibration samples from the training split",
        )


def inputs_of(item: object, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return one item of an iterable as a preprocessed batch by input name, labels left out.

    Raises:
        DataError: as `write_samples`.
    """
    return _read(item, inputs)[0]


def shapes_of_item(
    item: object, inputs: Sequence[TensorSpec], preprocess: Preprocess | None
) -> dict[str, tuple[int, ...]]:
    """Return the shape that each input of a model with free sizes has in one calibration item.

    The batch keeps what the model says of it. A raw image has the size that ``preprocess`` makes.

    Raises:
        DataError: as `write_samples`.
    """
    arrays, _ = _parts(item, inputs)
    found = {}
    for array, spec in zip(arrays, inputs, strict=True):
        raw = preprocess is not None and array.dtype.kind in "iu" and len(spec.shape) == 4
        value = apply(preprocess, array) if preprocess is not None and raw else array
        sizes = value.shape[1:] if value.ndim == len(spec.shape) else value.shape
        found[spec.name] = tuple(sizes) if spec.whole else (*spec.shape[:1], *sizes)
    return found


def _read(item: object, inputs: Sequence[TensorSpec]) -> tuple[dict[str, Array], object]:
    """Return one item's batch by input name, and its label (None when it has none)."""
    arrays, label = _parts(item, inputs)
    batch = {spec.name: _batched(array, spec) for array, spec in zip(arrays, inputs, strict=True)}
    counts = {name: len(array) for name, array in batch.items()}
    if len(set(counts.values())) > 1:
        raise DataError(
            f"an item's inputs hold unequal numbers of samples: {counts}",
            hint="give every input of an item the same batch",
        )
    return batch, label


def _parts(item: object, inputs: Sequence[TensorSpec]) -> tuple[list[Array], object]:
    if isinstance(item, Mapping):
        return _by_name(item, inputs), None
    if _is_list_of_samples(item, inputs):
        return [np.stack([to_numpy(one) for one in item])], None  # type: ignore[attr-defined]
    parts, label = list(item) if isinstance(item, tuple | list) else [item], None
    if len(parts) == len(inputs) + 1:
        *parts, label = parts
    if len(parts) in (1, 2) and isinstance(parts[0], tuple | list | Mapping):
        arrays, inner = _parts(parts[0], inputs)
        outer = parts[1] if len(parts) == 2 else label
        return arrays, inner if outer is None else outer
    if len(parts) != len(inputs):
        raise DataError(
            f"a calibration item has {len(parts)} parts, the model takes {len(inputs)} inputs",
            hint="yield a tensor, a tuple of tensors, a dict by name, or one of them and a label",
        )
    return [to_numpy(part) for part in parts], label


def _by_name(item: Mapping[Any, object], inputs: Sequence[TensorSpec]) -> list[Array]:
    """Return the parts of a dict; of a model with one input the only value that fits it."""
    missing = [spec.name for spec in inputs if spec.name not in item]
    if missing and len(inputs) == 1:
        fits = [value for value in item.values() if _is_sample(value, inputs[0])]
        if len(fits) == 1:
            return [to_numpy(fits[0])]
    if missing:
        raise DataError(
            f"a calibration item lacks {missing}; it has {sorted(map(str, item))}",
            hint="name its values as the model's inputs",
        )
    return [to_numpy(item[spec.name]) for spec in inputs]


def _is_list_of_samples(item: object, inputs: Sequence[TensorSpec]) -> bool:
    """Whether an item is a list of single samples, as a detection collate gives it.

    A tuple, and a list of batches as a DataLoader gives it, is an input and its target.
    """
    if not isinstance(item, list) or len(inputs) != 1 or len(item) < 2:
        return False
    return all(_is_sample(one, inputs[0], batched=False) for one in item)


def _is_sample(value: object, spec: TensorSpec, batched: bool = True) -> bool:
    """Whether a value has the shape of one sample of an input (or of a batch of them)."""
    shape = getattr(value, "shape", None)
    if shape is None or not len(shape):
        return False
    wanted = spec.shape[1:]
    given = tuple(shape)[1:] if batched and len(shape) == len(spec.shape) else tuple(shape)
    return len(given) == len(wanted) and all(
        want in (-1, have) for want, have in zip(wanted, given, strict=True)
    )


def to_numpy(value: object) -> Array:
    """Return an array from a tensor (torch's too) or anything numpy reads."""
    detach = getattr(value, "detach", None)
    if callable(detach):
        value = detach().cpu().numpy()
    return np.asarray(value)


def _stacked(array: Array, spec: TensorSpec) -> Array:
    """Return a batch of whole tensors [samples, 1, …] of one of samples [samples, …].

    A model without a batch may still have a 1 in the place of one.
    """
    inside = spec.shape[1:]
    if inside[:1] != (1,) or array.ndim not in (len(inside), len(inside) - 1):
        return array
    if array.ndim == len(inside) - 1:
        return array[None, None]
    return array if array.shape[0] == 1 else array[:, None]


def _batched(given: Array, spec: TensorSpec) -> Array:
    """Preprocess what is raw, give one sample its batch axis; check shape, dtype, finiteness."""
    array = ready(given, spec)
    array = _stacked(array, spec) if spec.whole else array
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
            hint="preprocess to that shape, or give raw images and preprocess=",
        )
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"a sample for input {spec.name!r} holds {array.dtype}, not numbers",
            hint="preprocess to numbers",
        )
    if np.dtype(spec.dtype).kind in "iu" and not (array == np.rint(array)).all():
        raise DataError(
            f"a sample for input {spec.name!r} holds fractions or NaN where {spec.dtype} is taken",
            hint="give whole numbers",
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.dtype(spec.dtype), copy=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"a sample for input {spec.name!r} holds NaN or infinity", hint="clean the data"
        )
    return array
