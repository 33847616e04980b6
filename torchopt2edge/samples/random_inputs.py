"""Random inputs for a signature."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchopt2edge.types import Signature, TensorSpec


def random_items(signature: Signature) -> list[dict[str, Any]]:
    """Return a few random samples for a signature, by input name."""
    return [random_sample(signature, seed) for seed in range(8)]


def random_sample(signature: Signature, seed: int = 0) -> dict[str, Any]:
    """Return one random sample: normal floats (not denormal, not constant), small integers."""
    rng = np.random.default_rng(seed)
    return {spec.name: _random(spec, rng) for spec in signature.inputs}


def _random(spec: TensorSpec, rng: np.random.Generator) -> Any:
    shape = tuple(1 if size < 0 else size for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
