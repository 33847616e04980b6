"""Every form a calibration item may take, and every form it may not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.quantize.graphs import floats
from torchopt2edge.errors import DataError
from torchopt2edge.quantize.samples import Samples, check_disjoint, sample_hash, write_samples
from torchopt2edge.types import Manifest, TensorSpec

ONE = (TensorSpec("x", (-1, 3, 4)),)
TWO = (TensorSpec("a", (-1, 3)), TensorSpec("b", (-1, 2)))
X = floats(5, 3, 4)
A, B = floats(4, 3, seed=1), floats(4, 2, seed=2)


def write(source: Any, inputs: tuple[TensorSpec, ...], out: Path, limit: int = 100) -> Samples:
    """Write and open."""
    facts = write_samples(source, inputs, limit, "calibration", out)
    kept = Samples(out)
    assert facts == {"count": len(kept.manifest.hashes), "split": "calibration"}
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


NAN = np.where(np.arange(4) == 2, np.nan, X).astype(np.float32)
WRONG: dict[str, tuple[Any, str]] = {
    "nothing": ([], "is empty"),
    "no-samples": ([X[:0]], "is empty"),
    "nan": ([X, NAN], "NaN or infinity"),
    "infinity": ([np.where(NAN > 0, np.inf, X)], "NaN or infinity"),
    "transposed": ([X.transpose(0, 2, 1)], r"shape \(5, 4, 3\).*\[batch, 3, 4\]"),
    "too-flat": ([np.zeros(4)], "shape"),
    "too-deep": ([X[None]], "shape"),
    "two-parts-too-many": ([(X, X, X)], "3 parts, the model takes 1"),
    "other-name": ([{"y": X}], r"lacks \['x'\]; it has \['y'\]"),
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


def test_disjoint_sets() -> None:
    check_disjoint(Manifest("calibration", ("a", "b")), iter(["c", "d"]))
    with pytest.raises(DataError, match="2 of 3 calibration samples are also in the evaluation"):
        check_disjoint(Manifest("calibration", ("a", "b", "c")), iter(["c", "a", "a"]))
