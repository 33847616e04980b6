"""Source names and layout outside, the file's inside, to the bit where it can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from torchopt2edge.backends.file_session import FileSession, from_file, to_file
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.types import Signature, TensorSpec

NCHW = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
PLAIN = TensorSpec("image", (-1, 3, 4, 5), "float32", "x:0", "float32")
NHWC = replace(PLAIN, perm=(0, 2, 3, 1))
INT8 = replace(NHWC, file_dtype="int8", scale=0.5, zero_point=-3)


def test_the_layout_goes_there_and_back() -> None:
    inside = to_file(NCHW, NHWC)
    assert inside.shape == (2, 4, 5, 3)
    assert inside.flags.c_contiguous
    np.testing.assert_array_equal(inside[1, 2, 3], NCHW[1, :, 2, 3])
    back = from_file(inside, NHWC)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, NCHW)


def test_a_permutation_that_is_not_its_own_inverse() -> None:
    spec = TensorSpec("t", (2, 3, 4), perm=(1, 2, 0))
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert to_file(array, spec).shape == (3, 4, 2)
    np.testing.assert_array_equal(from_file(to_file(array, spec), spec), array)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_integers_are_rounded_shifted_and_cut(dtype: str) -> None:
    limits = np.iinfo(dtype)
    spec = TensorSpec("t", (-1,), "float32", "t", dtype, None, 0.5, 10)
    given = np.array([0.0, 0.5, 0.74, -1.0, 1e9, -1e9], np.float32)
    inside = to_file(given, spec)
    assert inside.dtype == dtype
    assert inside.tolist() == [10, 11, 11, 8, limits.max, limits.min]
    back = from_file(inside[:4], spec)
    assert back.dtype == np.float32
    assert back.tolist() == [0.0, 0.5, 0.5, -1.0]


def test_every_integer_comes_back_as_itself() -> None:
    spec = TensorSpec("t", (-1,), "float32", "t", "int8", None, 0.037, -3)
    every = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(to_file(from_file(every, spec), spec), every)


def test_a_zero_point_of_zero_is_one() -> None:
    spec = TensorSpec("t", (-1,), "float32", "t", "int8", None, 1.0, 0)
    assert to_file(np.array([3.0], np.float32), spec).tolist() == [3]


def test_whole_numbers_without_a_scale_are_left_alone() -> None:
    spec = TensorSpec("labels", (-1,), "int64", "labels", "int32")
    inside = to_file(np.array([3, 4]), spec)
    assert inside.dtype == np.int32
    assert from_file(inside, spec).dtype == np.int64


class File:
    """What a runtime is to a session; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def __call__(self, arrays: Any) -> dict[str, np.ndarray]:
        """Give the input back under the output's name in the file."""
        self.given.append(dict(arrays))
        return {"y:0": arrays["x:0"]}


def session(spec: TensorSpec, file: File) -> FileSession:
    """Return a session whose output is its input."""
    return FileSession(Signature((spec,), (replace(spec, name="out", file_name="y:0"),)), file)


@pytest.mark.parametrize("spec", [PLAIN, NHWC, INT8], ids=["plain", "nhwc", "int8"])
def test_a_session_speaks_the_sources_language(spec: TensorSpec) -> None:
    file = File()
    found = session(spec, file)
    given = NCHW - 55
    assert (found.input_names, found.output_names) == (("image",), ("out",))
    outputs = found({"image": given})
    assert list(outputs) == ["out"]
    np.testing.assert_array_equal(outputs["out"], given)
    (inside,) = file.given
    assert inside["x:0"].dtype == spec.file_dtype


def test_a_fixed_batch_of_one_runs_sample_by_sample() -> None:
    file = File()
    outputs = session(replace(NHWC, shape=(1, 3, 4, 5)), file)({"image": NCHW})
    assert [array["x:0"].shape for array in file.given] == [(1, 4, 5, 3)] * 2
    np.testing.assert_array_equal(outputs["out"], NCHW)


def test_a_fixed_batch_runs_its_multiples_and_nothing_else() -> None:
    file = File()
    found = session(replace(PLAIN, shape=(2, 3, 4, 5)), file)
    found({"image": np.concatenate([NCHW, NCHW])})
    assert len(file.given) == 2
    for count in (1, 3):
        with pytest.raises(DataError, match="has shape"):
            found({"image": NCHW[:1].repeat(count, axis=0)})


def test_what_does_not_fit_names_the_input() -> None:
    found = session(PLAIN, File())
    with pytest.raises(DataError, match=r"inputs are named \['y'\], the model takes \['image'\]"):
        found({"y": NCHW})
    with pytest.raises(DataError, match=r"'image' has shape \(2, 4, 5, 3\).*\(-1, 3, 4, 5\)"):
        found({"image": NCHW.transpose(0, 2, 3, 1)})


HOW = Preprocess((0.5, 0.4, 0.3), (0.25,), resize=(4, 5))
RAW = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("spec", [PLAIN, NHWC, INT8], ids=["plain", "nhwc", "int8"])
def test_raw_images_go_through_the_signatures_preprocessing(spec: TensorSpec) -> None:
    file, other = File(), File()
    found = session(replace(spec, preprocess=HOW), file)
    outputs = found({"image": RAW})
    wanted = session(spec, other)({"image": HOW(RAW)})
    assert outputs["out"].tobytes() == wanted["out"].tobytes()
    assert file.given[0]["x:0"].tobytes() == other.given[0]["x:0"].tobytes()
    prepared = found.prepare({"image": RAW})
    assert prepared["x:0"].tobytes() == file.given[0]["x:0"].tobytes()
    assert found({"image": RAW[1]})["out"].tobytes() == wanted["out"][1:].tobytes()


def test_floats_do_not_go_through_it_again() -> None:
    found = session(replace(PLAIN, preprocess=HOW), File())
    np.testing.assert_array_equal(found({"image": NCHW})["out"], NCHW)


def test_raw_images_for_a_fixed_batch_of_one() -> None:
    file = File()
    outputs = session(replace(NHWC, shape=(1, 3, 4, 5), preprocess=HOW), file)({"image": RAW})
    assert [array["x:0"].shape for array in file.given] == [(1, 4, 5, 3)] * 2
    np.testing.assert_array_equal(outputs["out"], HOW(RAW))


def test_without_a_preprocessing_integers_are_plain_numbers() -> None:
    whole = NCHW.astype(np.uint8)
    np.testing.assert_array_equal(session(PLAIN, File())({"image": whole})["out"], NCHW)
