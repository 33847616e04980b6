"""Which arrays are raw images, and where their preprocessing belongs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from torchopt2edge.errors import ConfigError, DataError
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.samples.raw_images import is_raw, ready, with_preprocess
from torchopt2edge.types import Signature, TensorSpec

HOW = Preprocess((0.5,) * 3, (0.25,), resize=(4, 5))
IMAGE = TensorSpec("image", (-1, 3, 4, 5))
RAW = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
META, OUT = TensorSpec("meta", (-1, 6)), TensorSpec("scores", (-1, 10))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_integers_for_a_float_input_are_raw(dtype: str) -> None:
    spec = replace(IMAGE, preprocess=HOW)
    made = ready(RAW.astype(dtype), spec)
    np.testing.assert_array_equal(made, HOW(RAW))
    np.testing.assert_array_equal(ready(RAW[0], spec), HOW(RAW[:1]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bool"])
def test_floats_are_ready_and_left_alone(dtype: str) -> None:
    given = np.ones((2, 3, 4, 5), dtype)
    assert ready(given, replace(IMAGE, preprocess=HOW)) is given


def test_without_a_preprocessing_nothing_is_raw() -> None:
    assert ready(RAW, IMAGE) is RAW
    assert not is_raw(RAW, IMAGE)


def test_integers_for_an_integer_input_are_its_own() -> None:
    assert not is_raw(RAW, replace(IMAGE, dtype="int64", preprocess=HOW))


def test_a_raw_image_of_a_wrong_shape() -> None:
    with pytest.raises(DataError, match="4 channels"):
        ready(np.zeros((8, 9, 4), np.uint8), replace(IMAGE, preprocess=HOW))


def test_it_goes_to_the_image_input() -> None:
    found = with_preprocess(Signature((META, IMAGE), (OUT,)), HOW)
    assert found.inputs == (META, replace(IMAGE, preprocess=HOW))
    assert found.outputs == (OUT,)
    assert Signature.from_json(found.to_json()) == found
    assert with_preprocess(found, None) is found


@pytest.mark.parametrize(
    ("inputs", "number"),
    [((META,), 0), ((IMAGE, replace(IMAGE, name="b")), 2), ((replace(IMAGE, dtype="int64"),), 0)],
)
def test_no_input_or_several_are_images(inputs: tuple[TensorSpec, ...], number: int) -> None:
    with pytest.raises(ConfigError, match=f"the model has {number} of its {len(inputs)} inputs"):
        with_preprocess(Signature(inputs, (OUT,)), HOW)


@pytest.mark.parametrize("shape", [(-1, 3, 4, 6), (1, 3, 8, 5), (-1, 1, 4, 5)])
def test_it_makes_what_the_model_takes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"makes \[N, C, H, W\] = \(-1, 3, 4, 5\)"):
        with_preprocess(Signature((replace(IMAGE, shape=shape),), (OUT,)), HOW)


@pytest.mark.parametrize("shape", [(-1, 3, -1, -1), (-1, -1, 4, -1), (1, 3, 4, 5)])
def test_a_free_size_takes_any(shape: tuple[int, ...]) -> None:
    for how in (HOW, Preprocess(resize=9), Preprocess()):
        found = with_preprocess(Signature((replace(IMAGE, shape=shape),), (OUT,)), how)
        assert found.inputs[0].preprocess == how
