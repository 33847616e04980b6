"""Grids and codes, held to what they promise and to ONNX Runtime's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.quant_utils import compute_scale_zp

from torchopt2edge.quantize.qparams import (
    LEVELS,
    as_unsigned,
    min_weight_scale,
    quant_params,
    quantize_bias,
    quantize_weight,
)

EDGE = st.floats(-1e4, 1e4, width=32)
TYPES = st.sampled_from(["uint8", "int8"])


@settings(max_examples=200, deadline=None)
@given(EDGE, EDGE, TYPES)
def test_the_grid_is_onnx_runtimes(one: float, two: float, dtype: str) -> None:
    low, high = np.float32(min(one, two)), np.float32(max(one, two))
    limits = np.iinfo(dtype)
    ends = np.array(limits.min, dtype), np.array(limits.max, dtype)
    zero, scale = compute_scale_zp(low, high, *ends)
    found = quant_params(float(low), float(high), dtype)
    assert found.zero_point == int(zero)
    assert np.float32(found.scale) == np.float32(scale)


@settings(max_examples=200, deadline=None)
@given(EDGE, EDGE, TYPES)
def test_a_grid_holds_zero_and_its_range(one: float, two: float, dtype: str) -> None:
    low, high = min(one, two, 0.0), max(one, two, 0.0)
    found = quant_params(min(one, two), max(one, two), dtype)
    inside = np.linspace(low, high, 50)
    back = found.scale * (found.quantize(inside).astype(float) - found.zero_point)
    assert np.abs(back - inside).max() <= found.scale * 0.51
    assert found.quantize(np.zeros(1))[0] == found.zero_point
    assert found.low <= found.scale * 0.51
    assert found.high >= high - found.scale * 0.51


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.0, 1e-45), (-1e-40, 0.0)])
def test_a_tensor_that_was_never_activated(low: float, high: float, dtype: str) -> None:
    found = quant_params(low, high, dtype)
    assert (found.scale, found.zero_point) == (1.0, 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_channels_peak_is_its_last_code(axis: int) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 5, 3, 3)).astype(np.float32)
    codes, scales = quantize_weight(weight, axis)
    peaks = np.abs(codes.astype(int)).max(axis=tuple({0, 1, 2, 3} - {axis}))
    assert (peaks == LEVELS).all()
    spread = scales.reshape([-1 if at == axis else 1 for at in range(4)])
    assert np.abs(codes * spread - weight).max() <= 0.5001 * scales.max()


@pytest.mark.parametrize("axis", [0, 1])
def test_unsigned_codes_hold_the_same_integers(axis: int) -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (6, 5), np.int8)
    raised, zero = as_unsigned(codes, axis)
    assert raised.dtype == zero.dtype == np.uint8
    assert zero.shape == (codes.shape[axis],)
    spread = zero.reshape([-1 if at == axis else 1 for at in range(2)])
    assert (raised.astype(int) - spread == codes).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, LEVELS), st.floats(1e-6, 1e2), st.integers(0, 1000))
def test_weights_come_back_on_their_trained_grid(levels: int, step: float, seed: int) -> None:
    """A trained scale may be frozen, so that the peak is not code 127, or have fewer bits."""
    rng = np.random.default_rng(seed)
    trained = rng.integers(-levels, levels + 1, (4, 40))
    trained[:, :2] = levels, 1  # the peak, and nothing coarser holds it
    weight = (trained * np.float32(step)).astype(np.float32)
    codes, scales = quantize_weight(weight, 0)
    np.testing.assert_allclose(codes * scales[:, None], weight, rtol=2e-7, atol=0)
    if levels not in (1, LEVELS):
        np.testing.assert_array_equal(codes[:, 2:] % (np.abs(codes[:, 1:2])), 0)


def test_weights_off_any_grid_use_all_codes() -> None:
    weight = np.random.default_rng(3).standard_normal((64, 9)).astype(np.float32)
    codes, _ = quantize_weight(weight, 0)
    assert (np.abs(codes.astype(int)).max(axis=1) == LEVELS).all()


def test_a_dead_channel_has_a_scale_that_its_bias_can_be_held_in() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    weight[1] = 0.0
    bias = np.array([0.1, 0.3, -0.2], np.float32)
    codes, scales = quantize_weight(weight, 0)
    assert not codes[1].any()
    held, steps = quantize_bias(bias, 0.05, scales)
    np.testing.assert_allclose(held * steps, bias, atol=0.51 * 0.05 * scales.max())
    assert quantize_weight(np.zeros((2, 4), np.float32), 0)[1].min() > 0


def test_a_bias_beside_tiny_weights_does_not_overflow() -> None:
    weight = np.full((1, 4), 1e-12, np.float32)
    bias = np.array([5.0], np.float32)
    floor = min_weight_scale(bias, 0.01)
    held, steps = quantize_bias(bias, 0.01, quantize_weight(weight, 0, min_scale=floor)[1])
    np.testing.assert_allclose(held * steps.astype(np.float64), bias, rtol=1e-4)
    assert np.abs(held).max() < 2**31 - 1
