"""The integers that stand for reals: grids of activations, codes of weights and biases.

Affine as in Jacob et al. 2018 (arXiv:1712.05877), section 2.1: real = scale · (code - zero point).
Activations have one grid per tensor, weights a symmetric one per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LEVELS = 127  # steps to a side of a symmetric int8 weight; -128 is left out, as TFLite wants it
_NEAR = 1e-3  # in steps: how close to a grid a weight must lie to be called on it
_FEW = 8  # values of a channel that are tried before all are
_INT32 = 2**31 - 1
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Grid:
    """One tensor's ``scale`` (float32) and ``zero_point``, and the integer type of its codes."""

    scale: float
    zero_point: int
    dtype: str

    @property
    def low(self) -> float:
        """The least real value that has a code."""
        return self.scale * (int(np.iinfo(self.dtype).min) - self.zero_point)

    @property
    def high(self) -> float:
        """The greatest real value that has a code."""
        return self.scale * (int(np.iinfo(self.dtype).max) - self.zero_point)

    def codes(self, values: Array) -> Array:
        """Round values to codes, beyond the ends to the last ones."""
        limits = np.iinfo(self.dtype)
        codes = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
        return np.asarray(np.clip(codes, limits.min, limits.max), self.dtype)


def grid_of(low: float, high: float, dtype: str) -> Grid:
    """Return the grid of a range, widened until it holds 0, over all codes of ``dtype``.

    A range that is 0..0 (a tensor that was never activated) gets scale 1: any does, and a scale
    of 0 is no number that a runtime takes.
    """
    limits = np.iinfo(dtype)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = (high - low) / (int(limits.max) - int(limits.min))
    if scale < _TINY:
        return Grid(1.0, 0, dtype)
    return Grid(float(np.float32(scale)), round(int(limits.min) - low / scale), dtype)


def weight_codes(weight: Array, axis: int, *, floor: Array | None = None) -> tuple[Array, Array]:
    """Return the int8 codes of a weight and its float32 scale per channel along ``axis``.

    A channel's greatest |value| is code 127, unless all its values lie on a coarser grid already,
    as after quantization-aware training with a frozen scale or fewer bits: then it gets that grid
    back. ``floor`` holds the least scale of each channel (`bias_floor`).
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    rows = np.abs(rows.astype(np.float64))
    peaks = rows.max(axis=1, initial=0.0)
    scales = peaks / _levels(rows, peaks)
    scales = _filled(scales)
    if floor is not None:
        scales = np.maximum(scales, floor)
    scales = scales.astype(np.float32)
    shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
    codes = np.rint(weight.astype(np.float64) / scales.reshape(shape).astype(np.float64))
    return np.clip(codes, -LEVELS, LEVELS).astype(np.int8), scales


def as_unsigned(codes: Array, axis: int) -> tuple[Array, Array]:
    """Return int8 weight codes as uint8 ones, and the zero point per channel along ``axis``.

    Both hold the same integers: code + 128 with zero point 128.
    """
    raised = (codes.astype(np.int16) + 128).astype(np.uint8)
    return raised, np.full(codes.shape[axis], 128, np.uint8)


def coarsest(codes: Array, axis: int) -> tuple[Array, Array]:
    """Return int8 weight codes on the coarsest grid that holds them, per channel of ``axis``.

    Returns:
        The codes divided by their greatest common divisor, and the divisors (float32) by which
        the channels' scales grow.
    """
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1).astype(np.int32)
    divisors = np.maximum(np.gcd.reduce(rows, axis=1), 1)
    shape = [-1 if at == axis else 1 for at in range(codes.ndim)]
    return (codes // divisors.reshape(shape)).astype(np.int8), divisors.astype(np.float32)


def bias_floor(bias: Array, input_scale: float) -> Array:
    """Return the least weight scale per channel with which the bias still fits 32 bits.

    A bias is held in steps of input scale · weight scale; a channel of nearly dead weights would
    make that step so small that its bias overflows (onnxruntime.quantization widens them too).
    """
    return np.asarray(1.0001 * np.abs(bias.astype(np.float64)) / (_INT32 * input_scale))


def bias_codes(bias: Array, input_scale: float, scales: Array) -> tuple[Array, Array]:
    """Return the int32 codes of a bias and its scale per channel, input scale · weight scale."""
    steps = (np.float32(input_scale) * scales.astype(np.float32)).astype(np.float32)
    codes = np.rint(bias.astype(np.float64) / np.maximum(steps, _TINY))
    return np.clip(codes, -_INT32, _INT32).astype(np.int32), steps


def _filled(scales: Array) -> Array:
    """Give channels of zeros a usual scale: their bias is held in steps of it."""
    alive = scales >= _TINY
    usual = float(np.median(scales[alive])) if alive.any() else 1.0 / LEVELS
    return np.where(alive, scales, usual)


def _levels(rows: Array, peaks: Array) -> Array:
    """Return how many steps of its grid each channel's peak is; ``rows`` hold |values|."""
    scaled = rows / np.where(peaks > 0, peaks, 1.0)[:, None]
    found = np.full(len(rows), LEVELS)
    left = np.flatnonzero(~_fits(scaled, LEVELS))
    few = scaled[left, :_FEW]
    if rows.shape[1] > _FEW:  # the greatest too: the first ones may be zeros
        few = np.hstack([few, -np.partition(-scaled[left], 1, axis=1)[:, :2]])
    for levels in range(LEVELS - 1, 0, -1):
        near = np.flatnonzero(_fits(few, levels) & (found[left] == LEVELS))
        for at in left[near]:
            if _fits(scaled[at][None], levels)[0]:
                found[at] = levels
    return found


def _fits(scaled: Array, levels: int) -> Array:
    """Tell for each row whether all its values are near a multiple of 1 ÷ ``levels``."""
    steps = scaled * levels
    return np.asarray((np.abs(steps - np.rint(steps)) < _NEAR).all(axis=1))
