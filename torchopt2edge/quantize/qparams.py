"""Quantization parameters, and the integers that stand for weights and biases.

Affine as in Jacob et al. 2018 (arXiv:1712.05877), section 2.1: real = scale · (q - zero point).
Activations have one scale per tensor, weights a symmetric one per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LEVELS = 127  # the largest int8 weight; -128 is not used, as TFLite requires
_NEAR = 1e-3  # in steps: how close to a multiple of the scale a weight must be to count as one
_FEW = 8  # values of a channel that are tried before all are
_INT32 = 2**31 - 1
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class QuantParams:
    """How one tensor is quantized.

    Attributes:
        scale: the size of a step in real units, representable in float32.
        zero_point: the integer that stands for 0.
        dtype: the integer type, ``uint8`` or ``int8``.
    """

    scale: float
    zero_point: int
    dtype: str

    @property
    def low(self) -> float:
        """The least real value that an integer stands for."""
        return self.scale * (int(np.iinfo(self.dtype).min) - self.zero_point)

    @property
    def high(self) -> float:
        """The greatest real value that an integer stands for."""
        return self.scale * (int(np.iinfo(self.dtype).max) - self.zero_point)

    def quantize(self, values: Array) -> Array:
        """Round real values of any shape to integers of ``dtype``, clipped to its limits."""
        limits = np.iinfo(self.dtype)
        rounded = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
        return np.asarray(np.clip(rounded, limits.min, limits.max), self.dtype)


def quant_params(low: float, high: float, dtype: str) -> QuantParams:
    """Return the parameters of a range, widened until it holds 0, over all integers of ``dtype``.

    A range of 0 to 0 (a tensor that was never active) gets scale 1: any would do, and runtimes
    refuse a scale of 0.

    Example:
        >>> quant_params(-1.0, 1.55, "uint8")
        QuantParams(scale=0.009999999776482582, zero_point=100, dtype='uint8')
    """
    limits = np.iinfo(dtype)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = (high - low) / (int(limits.max) - int(limits.min))
    if scale < _TINY:
        return QuantParams(1.0, 0, dtype)
    return QuantParams(float(np.float32(scale)), round(int(limits.min) - low / scale), dtype)


def quantize_weight(
    weight: Array, axis: int, *, min_scale: Array | None = None
) -> tuple[Array, Array]:
    """Quantize a weight to int8, symmetrically per channel.

    A channel's greatest |value| becomes 127, unless all its values are multiples of a larger scale
    already, as after quantization-aware training with a frozen scale or fewer bits: then that
    scale is used, and nothing is rounded.

    Args:
        weight: float32 of any shape.
        axis: the axis of output channels.
        min_scale: the least scale of each channel [channels] (`min_weight_scale`).

    Returns:
        int8 of the weight's shape, and the scales, float32 [channels].
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    rows = np.abs(rows.astype(np.float64))
    peaks = rows.max(axis=1, initial=0.0)
    scales = peaks / _levels(rows, peaks)
    scales = _filled(scales)
    if min_scale is not None:
        scales = np.maximum(scales, min_scale)
    scales = scales.astype(np.float32)
    shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
    rounded = np.rint(weight.astype(np.float64) / scales.reshape(shape).astype(np.float64))
    return np.clip(rounded, -LEVELS, LEVELS).astype(np.int8), scales


def as_unsigned(quantized: Array, axis: int) -> tuple[Array, Array]:
    """Write an int8 weight as uint8, with zero point 128: the same values.

    Args:
        quantized: int8 of any shape.
        axis: the axis of output channels.

    Returns:
        uint8 of the same shape, and the zero points, uint8 [channels].
    """
    shifted = (quantized.astype(np.int16) + 128).astype(np.uint8)
    return shifted, np.full(quantized.shape[axis], 128, np.uint8)


def coarsest(quantized: Array, axis: int) -> tuple[Array, Array]:
    """Return an int8 weight on the largest scale that represents it exactly, per channel.

    Args:
        quantized: int8 of any shape.
        axis: the axis of output channels.

    Returns:
        The integers divided by their greatest common divisor, and the divisors, float32
        [channels], by which the channels' scales grow.
    """
    rows = np.moveaxis(quantized, axis, 0).reshape(quantized.shape[axis], -1).astype(np.int32)
    divisors = np.maximum(np.gcd.reduce(rows, axis=1), 1)
    shape = [-1 if at == axis else 1 for at in range(quantized.ndim)]
    return (quantized // divisors.reshape(shape)).astype(np.int8), divisors.astype(np.float32)


def min_weight_scale(bias: Array, input_scale: float) -> Array:
    """Return the least weight scale per channel with which the bias still fits in 32 bits.

    A bias is held in steps of input scale · weight scale. A channel of nearly dead weights would
    make that step so small that its bias overflows (onnxruntime.quantization widens them too).

    Args:
        bias: float32 [channels].
        input_scale: the scale of the layer's input.

    Returns:
        float64 [channels].
    """
    return np.asarray(1.0001 * np.abs(bias.astype(np.float64)) / (_INT32 * input_scale))


def quantize_bias(bias: Array, input_scale: float, scales: Array) -> tuple[Array, Array]:
    """Quantize a bias to int32.

    Args:
        bias: float32 [channels].
        input_scale: the scale of the layer's input.
        scales: the scales of its weight [channels].

    Returns:
        int32 [channels], and the scales: input scale · weight scale, float32 [channels].
    """
    steps = (np.float32(input_scale) * scales.astype(np.float32)).astype(np.float32)
    rounded = np.rint(bias.astype(np.float64) / np.maximum(steps, _TINY))
    return np.clip(rounded, -_INT32, _INT32).astype(np.int32), steps


def _filled(scales: Array) -> Array:
    """Give channels of zeros the median scale: their bias is held in steps of it."""
    alive = scales >= _TINY
    usual = float(np.median(scales[alive])) if alive.any() else 1.0 / LEVELS
    return np.where(alive, scales, usual)


def _levels(rows: Array, peaks: Array) -> Array:
    """Return how many steps of its scale each channel's peak is; ``rows`` hold |values|."""
    scaled = rows / np.where(peaks > 0, peaks, 1.0)[:, None]
    levels_of = np.full(len(rows), LEVELS)
    left = np.flatnonzero(~_fits(scaled, LEVELS))
    few = scaled[left, :_FEW]
    if rows.shape[1] > _FEW:  # the greatest too: the first ones may be zeros
        few = np.hstack([few, -np.partition(-scaled[left], 1, axis=1)[:, :2]])
    for levels in range(LEVELS - 1, 0, -1):
        near = np.flatnonzero(_fits(few, levels) & (levels_of[left] == LEVELS))
        for at in left[near]:
            if _fits(scaled[at][None], levels)[0]:
                levels_of[at] = levels
    return levels_of


def _fits(scaled: Array, levels: int) -> Array:
    """Tell for each row whether all its values are close to a multiple of 1 ÷ ``levels``."""
    steps = scaled * levels
    return np.asarray((np.abs(steps - np.rint(steps)) < _NEAR).all(axis=1))
