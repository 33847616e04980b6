"""What a preprocessing does to pixels, the same bits on every machine.

NumPy only, so that a device without torch can execute it. Every step is a fixed sequence of
integer or IEEE float operations on whole arrays, with nothing in it that may sum in another
order. Images are [N, H, W, C] until `normalised` makes them [N, C, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from torchopt2edge.errors import DataError

Array = np.ndarray[Any, Any]

_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}
_BITS = 22  # of a weight's fraction: 8 of a pixel, 2 to spare, in 32


@dataclass(frozen=True)
class Resampling:
    """How an axis is resampled; the words are `Preprocess`'s."""

    interpolation: str
    antialias: bool
    rounding: bool


def channels_last(raw: Array, layout: str, channels: int | None) -> Array:
    """Return raw images as [N, H, W, ``channels``], grey ones repeated; None takes any number.

    Raises:
        DataError: no images, or of other channels.
    """
    given = np.asarray(raw)
    batch = given[None] if given.ndim == 3 else given
    image = np.moveaxis(batch, 1, 3) if layout == "NCHW" and batch.ndim == 4 else batch
    image = given[None, :, :, None] if given.ndim == 2 else image
    if image.ndim != 4 or given.dtype.kind not in "iuf" or 0 in image.shape[1:]:
        axes = ", ".join(layout)
        raise DataError(
            f"a raw image is {given.dtype} of shape {given.shape}, not numbers [{axes}]",
            hint=f"give a batch [{axes}] or one image [{axes[3:]}]; a grey batch has C = 1",
        )
    have = image.shape[3]
    if channels is None or have == channels:
        return image
    if have != 1:
        raise DataError(
            f"a raw image of shape {given.shape} has {have} channels as {layout}, "
            f"mean and std are for {channels}",
            hint="convert it (to RGB, say), or set preprocess.layout to what the images have",
        )
    return np.broadcast_to(image, (*image.shape[:3], channels))


def resized(image: Array, size: tuple[int, int], how: Resampling) -> Array:
    """Resample to (height, width), the width first; an axis that has its size is left alone."""
    height, width = size
    return _along(_along(image, 2, width, how), 1, height, how)


def cropped(image: Array, size: tuple[int, int]) -> Array:
    """Cut (height, width) out of the centre.

    Raises:
        DataError: the image is smaller.
    """
    (high, wide), (height, width) = size, image.shape[1:3]
    if high > height or wide > width:
        raise DataError(
            f"a crop of {high}×{wide} does not fit into an image of {height}×{width}",
            hint="resize to at least the crop",
        )
    top, left = round((height - high) / 2), round((width - wide) / 2)
    return image[:, top : top + high, left : left + wide]


def normalised(
    image: Array, scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
    """Return (image · scale - mean) / std as float32 [N, C, H, W]."""

    def affine(planes: Array) -> Array:
        low, wide = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
        # A product in 64 bits, rounded once, is the quotient that x / 255 is in 32.
        scaled = np.multiply(planes, scale, dtype=np.float64).astype(np.float32)
        made: Array = (scaled - low) / wide
        return made

    planes = np.moveaxis(image, 3, 1)
    if image.dtype != np.uint8:
        return np.ascontiguousarray(affine(planes))
    levels = np.broadcast_to(np.arange(256), (1, planes.shape[1], 1, 256))
    made = np.empty(planes.shape, np.float32)
    for channel, values in enumerate(affine(levels)[0, :, 0]):
        made[:, channel] = values[planes[:, channel]]
    return made


def _along(image: Array, axis: int, size: int, how: Resampling) -> Array:
    """Resample one axis; integers stay integers when ``rounding`` says so."""
    if image.shape[axis] == size:
        return image
    index, weight = _taps(image.shape[axis], size, how)
    lines = np.ascontiguousarray(np.moveaxis(image, axis, 0))
    if not how.rounding or lines.dtype.kind == "f":
        return np.moveaxis(_weighted(lines, index, weight.astype(np.float32)), 0, axis)
    wide = np.int32 if lines.dtype.itemsize == 1 else np.int64
    fixed = np.trunc(weight * 2**_BITS + np.copysign(0.5, weight)).astype(wide)
    total = (_weighted(lines, index, fixed) + 2 ** (_BITS - 1)) >> _BITS
    limits = np.iinfo(lines.dtype)
    return np.moveaxis(np.clip(total, limits.min, limits.max).astype(lines.dtype), 0, axis)


def _taps(old: int, new: int, how: Resampling) -> tuple[Array, Array]:
    """Return which old pixels make each new one, and their weights: both [taps, new]."""
    step = old / new
    stretch = max(step, 1.0) if how.antialias else 1.0
    reach = _RADIUS[how.interpolation] * stretch
    centre = (np.arange(new) + 0.5) * step
    first = np.maximum((centre - reach + 0.5).astype(np.intp), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.intp), old)
    at = first + np.arange((last - first).max())[:, None]
    distance = np.abs((at - centre + 0.5) * (1.0 / stretch))
    curve = _triangle(distance) if how.interpolation == "bilinear" else _cubic(distance)
    weight = curve * (at < last)
    return np.minimum(at, old - 1), weight / sum(weight)


def _weighted(lines: Array, index: Array, weight: Array) -> Array:
    """Return Σ weight·line over the taps, in their order, in the weights' dtype."""
    total = np.zeros((index.shape[1], *lines.shape[1:]), weight.dtype)
    for at, factor in zip(index, weight, strict=True):
        column = factor.reshape(-1, *(1,) * (lines.ndim - 1))
        total += np.multiply(lines[at], column, dtype=weight.dtype, casting="unsafe")
    return total


def _triangle(distance: Array) -> Array:
    made: Array = np.maximum(1.0 - distance, 0.0)
    return made


def _cubic(x: Array) -> Array:
    """Return the cubic convolution kernel of Keys 1981 with a = -0.5, for x ≥ 0."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
