"""Every form a calibration item may take, and every form it may not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.quantize.graphs import floats
from torchopt2edge.errors import DataError
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.samples.calibration_set import (
    Samples,
    check_disjoint,
    sample_hash,
    write_samples,
)
from torchopt2edge.types import Manifest, TensorSpec

ONE = (TensorSpec("x", (-1, 3, 4)),)
TWO = (TensorSpec("a", (-1, 3)), TensorSpec("b", (-1, 2)))
X = floats(5, 3, 4)
A, B = floats(4, 3, seed=1), floats(4, 2, seed=2)


def write(source: Any, inputs: tuple[TensorSpec, ...], out: Path, limit: int = 100) -> Samples:
    """Write and open."""
    facts = write_samples(source, inputs, limit, "calibration", out)
    kept = Samples(out)
    labelled = kept.labels is not None
    count = len(kept.manifest.hashes)
    assert facts == {"count": count, "split": "calibration", "labelled": labelled}
    return kept


def whole(kept: Samples) -> dict[str, np.ndarray]:
    """Return all samples as one batch."""
    (batch,) = kept.batches(1000)
    return batch


FORMS_OF_ONE: dict[str, Any] = {
    "batches": [X[:2], X[2:]],
    "samples": list(X),
    "tensors": [torch.from_numpy(X[:3]), torch.from_numpy(X[3:])],
    "tensors-with-gradients": [torch.from_numpy(X).clone().requires_grad_()],
    "one-tuples": [(X,)],
    "with-labels": [(X[:2], np.arange(2)), (X[2:], np.arange(3))],
    "samples-with-labels": [(sample, 7) for sample in X],
    "lists-with-labels": [[X, np.arange(5)]],
    "by-name": [{"x": X}],
    "by-name-and-more": [{"label": 3, "x": X}],
    "by-name-with-labels": [({"x": X}, np.arange(5))],
    "tuples-with-labels": [((X,), np.arange(5))],
    "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X)), 2),
}


@pytest.mark.parametrize("form", FORMS_OF_ONE)
def test_forms_of_one_input(form: str, tmp_path: Path) -> None:
    found = whole(write(FORMS_OF_ONE[form], ONE, tmp_path))
    assert list(found) == ["x"]
    np.testing.assert_array_equal(found["x"], X)
    assert found["x"].dtype == np.float32


FORMS_OF_TWO: dict[str, Any] = {
    "batches": [(A, B)],
    "samples": list(zip(A, B, strict=True)),
    "with-labels": [(A, B, np.arange(4))],
    "nested-with-labels": [((A, B), np.arange(4))],
    "nested": [((A, B),)],
    "by-name": [{"b": B, "a": A}],
    "by-name-with-labels": [({"b": B, "a": A}, np.arange(4))],
}


@pytest.mark.parametrize("form", FORMS_OF_TWO)
def test_forms_of_two_inputs(form: str, tmp_path: Path) -> None:
    found = whole(write(FORMS_OF_TWO[form], TWO, tmp_path))
    np.testing.assert_array_equal(found["a"], A)
    np.testing.assert_array_equal(found["b"], B)


def test_other_number_types_become_the_models(tmp_path: Path) -> None:
    given = [X.astype(np.float64), np.ones((1, 3, 4), np.uint8), np.zeros((1, 3, 4), bool)]
    found = whole(write(given, ONE, tmp_path))["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[5:], np.stack([np.ones((3, 4)), np.zeros((3, 4))]))


@pytest.mark.parametrize("limit", [1, 3, 5, 9])
def test_the_first_samples_up_to_the_limit(limit: int, tmp_path: Path) -> None:
    kept = write([X[:2], X[2:]], ONE, tmp_path, limit)
    np.testing.assert_array_equal(whole(kept)["x"], X[:limit])
    assert len(kept.manifest.hashes) == min(limit, 5)


def test_an_endless_source_is_left_at_the_limit(tmp_path: Path) -> None:
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield X

    assert len(write(endless(), ONE, tmp_path, 12).manifest.hashes) == 12


def test_one_hash_per_sample_whatever_the_batches(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = write([X[:2], X[2:]], ONE, tmp_path / "a").manifest
    two = write([sample.astype(np.float64) for sample in X], ONE, tmp_path / "b").manifest
    assert one == two
    assert one.hashes == tuple(sample_hash([sample]) for sample in X)
    assert len(set(one.hashes)) == 5


def test_a_hash_is_of_all_inputs(tmp_path: Path) -> None:
    same = np.repeat(A[:1], 4, axis=0)
    kept = write([(same, B)], TWO, tmp_path)
    assert len(set(kept.manifest.hashes)) == 4


@pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (8, [5])])
def test_batches_from_disk(size: int, sizes: list[int], tmp_path: Path) -> None:
    kept = write([X], ONE, tmp_path)
    batches = [batch["x"] for batch in kept.batches(size)]
    assert [len(batch) for batch in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), X)
    assert sum(len(batch["x"]) for batch in kept.batches(size, limit=3)) == 3


def test_batches_are_plain_writable_arrays(tmp_path: Path) -> None:
    for batch in write([X], ONE, tmp_path).batches(2):
        assert type(batch["x"]) is np.ndarray
        assert batch["x"].flags.writeable, "PyTorch warns of a tensor over read-only memory"


def test_the_record_on_disk(tmp_path: Path) -> None:
    kept = write([(A, B)], TWO, tmp_path)
    record = json.loads((tmp_path / "manifest.json").read_text())
    assert record["names"] == ["a", "b"] == list(kept.names)
    assert record["split"] == "calibration"
    assert record["seed"] is None
    assert record["preprocessing"] == {}


LABELLED: dict[str, Any] = {
    "batches": [(X[:2], np.array([4, 0])), (X[2:], torch.tensor([1, 2, 3]))],
    "samples": [(sample, label) for sample, label in zip(X, [4, 0, 1, 2, 3], strict=True)],
    "lists": [[X, [4, 0, 1, 2, 3]]],
    "by-name": [({"x": X}, np.array([4, 0, 1, 2, 3], np.uint8))],
    "tuples": [((X,), np.array([4, 0, 1, 2, 3]))],
}


@pytest.mark.parametrize("form", LABELLED)
def test_labels_are_kept(form: str, tmp_path: Path) -> None:
    labels = write(LABELLED[form], ONE, tmp_path, limit=4).labels
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.tolist() == [4, 0, 1, 2]


def test_labels_of_two_inputs(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    for item, out in [((A, B, np.arange(4)), tmp_path), (((A, B), np.arange(4)), tmp_path / "n")]:
        labels = write([item], TWO, out).labels
        assert labels is not None
        assert labels.tolist() == [0, 1, 2, 3]


UNLABELLED: dict[str, Any] = {
    "none": [X],
    "some": [(X[:2], np.arange(2)), X[2:]],
    "late": [X[:2], (X[2:], np.arange(3))],
    "one-for-all": [(X, 7)],
    "soft": [(X, floats(5, 10))],
    "columns": [(X, np.arange(10).reshape(5, 2))],
    "boxes": [(X, [[1, 2], [3], [], [4], [5]])],
    "dicts": [(X, {"boxes": np.arange(5)})],
    "text": [(X, list("abcde"))],
}


@pytest.mark.parametrize("form", UNLABELLED)
def test_what_is_no_label_per_sample_is_dropped(form: str, tmp_path: Path) -> None:
    kept = write(UNLABELLED[form], ONE, tmp_path)
    assert kept.labels is None
    np.testing.assert_array_equal(whole(kept)["x"], X)


@pytest.mark.parametrize("skip", [0, 1, 2, 4])
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_samples_behind_the_first(skip: int, limit: int, tmp_path: Path) -> None:
    items = [(X[:2], np.arange(2)), (X[2:4], np.arange(2, 4)), (X[4], 4)]
    write_samples(items, ONE, limit, "validation", tmp_path, skip=skip)
    kept, wanted = Samples(tmp_path), slice(skip, skip + limit)
    np.testing.assert_array_equal(whole(kept)["x"], X[wanted])
    assert kept.labels is not None
    assert kept.labels.tolist() == list(range(5))[wanted]
    assert kept.manifest.hashes == tuple(sample_hash([sample]) for sample in X[wanted])


def test_nothing_behind_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the validation set is empty.*at least 6 samples"):
        write_samples([X], ONE, 9, "validation", tmp_path, skip=5)


RAW = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
HOW = Preprocess((0.5, 0.4, 0.3), (0.25,), resize=(4, 5))
IMAGE = (TensorSpec("image", (-1, 3, 4, 5), preprocess=HOW),)


@pytest.mark.parametrize(
    "items",
    [
        [RAW],
        [*RAW],
        [Image.fromarray(image) for image in RAW],
        [torch.from_numpy(RAW)],
        [(RAW, np.arange(5))],
        [{"image": RAW}],
        [HOW(RAW)],
    ],
    ids=["batch", "images", "pillow", "tensor", "labelled", "by-name", "preprocessed"],
)
def test_raw_images_are_preprocessed(items: list[Any], tmp_path: Path) -> None:
    kept = write(items, IMAGE, tmp_path)
    assert whole(kept)["image"].tobytes() == HOW(RAW).tobytes()
    assert kept.manifest.hashes == tuple(sample_hash([sample]) for sample in HOW(RAW))


def test_the_manifest_says_how_they_were_made(tmp_path: Path) -> None:
    write_samples([RAW], IMAGE, 3, "calibration", tmp_path, seed=7)
    found = Samples(tmp_path).manifest
    assert found.seed == 7
    assert list(found.preprocessing) == ["image"]
    assert Preprocess.from_json(found.preprocessing["image"]) == HOW


def test_images_of_many_sizes_one_by_one(tmp_path: Path) -> None:
    images = [RAW[0], RAW[1][:6], RAW[2][:, :5, :1]]
    found = whole(write(images, IMAGE, tmp_path))["image"]
    np.testing.assert_array_equal(found, np.concatenate([HOW(image) for image in images]))


def test_a_raw_image_that_does_not_fit(tmp_path: Path) -> None:
    spec = (TensorSpec("image", (-1, 3, 4, 5), preprocess=Preprocess((0.5,) * 3)),)
    with pytest.raises(DataError, match=r"'image' has shape \(5, 3, 9, 7\)"):
        write([RAW], spec, tmp_path)
    with pytest.raises(DataError, match=r"shape \(5, 9, 7, 3\).*raw images and preprocess="):
        write([RAW], (TensorSpec("image", (-1, 3, 4, 5)),), tmp_path)


NAN = np.where(np.arange(4) == 2, np.nan, X).astype(np.float32)
WRONG: dict[str, tuple[Any, str]] = {
    "nothing": ([], "is empty"),
    "no-samples": ([X[:0]], "is empty"),
    "nan": ([X, NAN], "NaN or infinity"),
    "beyond-float32": ([X.astype(np.float64) * 1e300], "NaN or infinity"),
    "infinity": ([np.where(NAN > 0, np.inf, X)], "NaN or infinity"),
    "transposed": ([X.transpose(0, 2, 1)], r"shape \(5, 4, 3\).*\[batch, 3, 4\]"),
    "too-flat": ([np.zeros(4)], "shape"),
    "too-deep": ([X[None]], "shape"),
    "two-parts-too-many": ([(X, X, X)], "3 parts, the model takes 1"),
    "other-name": ([{"y": X, "z": X}], r"lacks \['x'\]; it has \['y', 'z'\]"),
    "text": ([np.full((1, 3, 4), "a")], "not numbers"),
    "ragged-by-name": ([{"x": None}], "shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used(case: str, tmp_path: Path) -> None:
    source, what = WRONG[case]
    with pytest.raises(DataError, match=what):
        write(source, ONE, tmp_path)


def test_two_inputs_of_unequal_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unequal numbers of samples.*'a': 4, 'b': 3"):
        write([(A, B[:3])], TWO, tmp_path)


def test_one_part_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 parts, the model takes 2"):
        write([A], TWO, tmp_path)


def test_a_free_size_takes_any(tmp_path: Path) -> None:
    free = (TensorSpec("x", (-1, 3, -1)),)
    assert whole(write([X], free, tmp_path))["x"].shape == (5, 3, 4)
    with pytest.raises(DataError, match=r"'x' have unequal shapes: \(3, 2\) after \(3, 4\)"):
        write([X, X[:, :, :2]], free, tmp_path)


def test_disjoint_sets() -> None:
    check_disjoint(Manifest("calibration", ("a", "b")), iter(["c", "d"]))
    with pytest.raises(DataError, match="2 of 3 calibration samples are also in the evaluation"):
        check_disjoint(Manifest("calibration", ("a", "b", "c")), iter(["c", "a", "a"]))
