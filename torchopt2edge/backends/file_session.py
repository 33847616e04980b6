"""What every opened file has in common: source names and layout outside, the file's inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchopt2edge.errors import DataError
from torchopt2edge.samples.raw_images import ready
from torchopt2edge.types import Signature, TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FileSession:
    """A TimedSession over ``execute``, which takes and gives arrays as the file holds them.

    A file whose batch is fixed runs any multiple of it, piece by piece. Raw images are taken
    where the signature says how to preprocess them (`samples.raw_images`).
    """

    signature: Signature
    execute: Callable[[Mapping[str, Array]], dict[str, Array]]

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs' names, in order."""
        return tuple(spec.name for spec in self.signature.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return tuple(spec.name for spec in self.signature.outputs)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run on source arrays of any batch the file allows, give source arrays back."""
        given = self._ready(inputs)
        pieces = [self.restore(self.run(self.prepare(piece))) for piece in self._pieces(given)]
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}

    def prepare(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Bring source arrays into the file's names, dtypes and layout."""
        given = self._ready(inputs)
        self._check(given)
        return {spec.file_name: to_file(given[spec.name], spec) for spec in self.signature.inputs}

    def run(self, prepared: Mapping[str, Array]) -> dict[str, Array]:
        """Set the inputs, run, read the outputs."""
        return self.execute(prepared)

    def restore(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Bring the file's outputs back into source names, dtypes and layout."""
        return {
            spec.name: from_file(outputs[spec.file_name], spec) for spec in self.signature.outputs
        }

    def _ready(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        specs = {spec.name: spec for spec in self.signature.inputs}
        return {
            name: ready(array, specs[name]) if name in specs else array
            for name, array in inputs.items()
        }

    def _check(self, inputs: Mapping[str, Array]) -> None:
        if set(inputs) != set(self.input_names):
            raise DataError(
                f"the inputs are named {sorted(inputs)}, the model takes {list(self.input_names)}",
                hint="pass a dict with the names of session.input_names",
            )
        for spec in self.signature.inputs:
            shape = np.shape(inputs[spec.name])
            fits = len(shape) == len(spec.shape) and all(
                want in (-1, shape[at]) for at, want in enumerate(spec.shape)
            )
            if not fits:
                raise DataError(
                    f"the input {spec.name!r} has shape {shape}, the model takes {spec.shape}",
                    hint="preprocess to that shape (-1 is any size)",
                )

    def _pieces(self, inputs: Mapping[str, Array]) -> list[Mapping[str, Array]]:
        sizes = {spec.shape[0] if spec.shape else -1 for spec in self.signature.inputs}
        counts = {len(value) for value in inputs.values() if np.ndim(value)}
        if len(sizes) != 1 or len(counts) != 1 or (size := sizes.pop()) <= 0:
            return [inputs]
        count = counts.pop()
        if count <= size or count % size:
            return [inputs]
        return [
            {name: value[at : at + size] for name, value in inputs.items()}
            for at in range(0, count, size)
        ]


def to_file(array: Array, spec: TensorSpec) -> Array:
    """Transpose, quantize and cast one source array to what the file takes."""
    value = array[0] if spec.whole else array
    value = value if spec.perm is None else value.transpose(spec.perm)
    dtype = np.dtype(spec.file_dtype or spec.dtype)
    if spec.scale is not None and np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        value = np.clip(
            np.rint(value / spec.scale) + (spec.zero_point or 0), limits.min, limits.max
        )
    return np.asarray(value, dtype=dtype, order="C")  # ascontiguousarray makes scalars 1-D


def from_file(array: Array, spec: TensorSpec) -> Array:
    """Undo ``to_file`` for an output."""
    value = array
    if spec.scale is not None and np.issubdtype(array.dtype, np.integer):
        value = (array.astype(np.float32) - (spec.zero_point or 0)) * np.float32(spec.scale)
    if spec.perm is not None:
        value = value.transpose(np.argsort(spec.perm))
    value = value[None] if spec.whole else value
    return np.ascontiguousarray(value, dtype=np.dtype(spec.dtype))
