"""The signal-to-quantization-noise ratio (SQNR), the one measure of how close two outputs are.

    SQNR = 10 · log10( Σ r² ÷ Σ (r - q)² )  in dB, of a reference r and an output q

The rules, the same for every user:

S1. Positions where the reference is NaN or infinite do not count.
S2. Equal values have the upper limit: no noise, whatever the signal. So has an empty tensor.
S3. Noise without a signal, noise that is not finite, and a reference without a finite value have
    the lower limit.

There are two ways to average, because they answer two questions:

- `sqnr_db` sums over all values and clips to ±200 dB. It judges a file: the samples with the
  largest values decide, as they do in the error that a user sees.
- `mean_sqnr_db` takes the ratio of each sample, clips it to -20 … 100 dB, and averages the samples
  (the segmental SNR of speech coding). It chooses among ranges: in the sum over all samples the
  one with the largest values would decide alone, and clipping an outlier could never be seen to
  serve the others. The limits keep a single sample from deciding the mean.

This module is copied beside the converter's child process: standard library and numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LIMIT_DB = 200.0
SAMPLE_LIMITS_DB = (-20.0, 100.0)


def sqnr_db(reference: Array, output: Array) -> float:
    """Return the SQNR over all values.

    Args:
        reference: numbers of any shape and dtype.
        output: numbers of the same shape.

    Returns:
        Decibels, -200 to 200.
    """
    signal, noise = _powers(reference.reshape(1, -1), output.reshape(1, -1))
    return float(_decibels(signal, noise, -LIMIT_DB, LIMIT_DB)[0])


def sqnr_per_sample_db(reference: Array, output: Array) -> Array:
    """Return the SQNR of each sample, NaN for a sample with neither signal nor noise.

    Args:
        reference: numbers of shape [samples, values].
        output: numbers of the same shape.

    Returns:
        Decibels, float64 [samples], -20 to 100.
    """
    signal, noise = _powers(reference, output)
    ratios = _decibels(signal, noise, *SAMPLE_LIMITS_DB)
    return np.where((signal == 0) & (noise == 0), np.nan, ratios)


def mean_sqnr_db(ratios: Array) -> float:
    """Average what `sqnr_per_sample_db` returned over the samples that have a signal or noise.

    Returns:
        Decibels, -20 to 100; 100 when no sample has either.
    """
    known = ratios[~np.isnan(ratios)]
    return float(known.mean()) if len(known) else SAMPLE_LIMITS_DB[1]


def _powers(reference: Array, output: Array) -> tuple[Array, Array]:
    """Return the power of the signal and of the noise of each row; NaN where nothing counts."""
    signal = reference.astype(np.float64)
    noise = signal - output.astype(np.float64)
    finite = np.isfinite(signal)
    if not finite.all():  # S1
        signal, noise = np.where(finite, signal, 0.0), np.where(finite, noise, 0.0)
    signal, noise = np.square(signal).sum(-1), np.square(noise).sum(-1)
    compared = finite.any(-1) | (finite.shape[-1] == 0)
    return signal, np.where(compared, noise, np.nan)


def _decibels(signal: Array, noise: Array, low: float, high: float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 10 * np.log10(signal / noise)
    ratios = np.where(noise == 0, high, ratios)  # S2
    ratios = np.where(np.isfinite(noise), ratios, low)  # S3
    return np.asarray(np.clip(ratios, low, high))
