"""Files that exist already, as they come: of different contracts, damaged, of no known kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.disk import full_disk
from torchopt2edge.api import bench
from torchopt2edge.errors import ConfigError
from torchopt2edge.report import read
from torchopt2edge.store import Store


def write(file: Path, inputs: dict[str, tuple[int, list[int | str]]], op: str = "Identity") -> Path:
    """Write a file that hands each of its inputs on."""
    given, made = (
        [helper.make_tensor_value_info(f"{name}{end}", *of) for name, of in inputs.items()]
        for end in ("", "_out")
    )
    nodes = [helper.make_node(op, [name], [f"{name}_out"]) for name in inputs]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(
        helper.make_graph(nodes, "net", given, made), opset_imports=opset, ir_version=10
    )
    onnx.save(model, file)
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write(tmp_path / "images.onnx", {"image": (TensorProto.FLOAT, ["n", 3, 8, 8])})


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Two inputs of other names, ranks and types."""
    return write(
        tmp_path / "words.onnx",
        {"ids": (TensorProto.INT64, [1, 16]), "mask": (TensorProto.FLOAT, [1, 4, 16])},
    )


def test_files_of_different_contracts_are_measured_side_by_side(
    images: Path, words: Path, tmp_path: Path
) -> None:
    found = bench(
        [images, words], timing="smoke", out=tmp_path / "out", store=Store(tmp_path / "s")
    )
    rows = {row.candidate: row for row in found.rows}
    assert rows.keys() == {"images-ort-fp32", "words-ort-fp32"}
    for row in rows.values():
        assert row.err is None
        assert row.metrics["latency_ms"] > 0
        assert "drop" not in row.metrics  # they were not scored on anything
        assert row.facts["checked"] == "against itself"
    kept, verdict, _ = read(tmp_path / "out")
    assert {row.candidate for row in kept} == rows.keys()
    assert verdict == found.verdict


def test_a_damaged_file_loses_its_own_row_alone(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(images.read_bytes()[:40])
    found = bench([tmp_path / "cut.onnx", images, tmp_path / "no.onnx"], timing="smoke",
                    out=tmp_path / "out", store=Store(tmp_path / "s"))  # fmt: skip
    errs = {row.candidate.partition("-")[0]: row.err for row in found.rows}
    assert errs["images"] is None
    assert str(errs["cut"]).startswith("not a valid ONNX file: ")
    assert "Hint: export it again" in str(errs["cut"])
    assert "no such file" in str(errs["no"])


def test_weights_in_another_file_are_weighed_too(tmp_path: Path) -> None:
    """A file without its weights was the smallest of a tie, and would have been brought alone."""
    weights = numpy_helper.from_array(np.full((64, 64), 0.5, np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in ("x", "y")]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights]
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data")
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "gone.onnx").write_bytes((tmp_path / "net.onnx").read_bytes())
    files = [tmp_path / "net.onnx", lost / "gone.onnx"]
    found = bench(files, timing="smoke", out=tmp_path / "out", store=Store(tmp_path / "s"))
    rows = {row.candidate.partition("-")[0]: row for row in found.rows}
    assert rows["net"].err is None
    assert rows["net"].metrics["size_mb"] > 0.016
    assert "net.data" in str(rows["gone"].err)


def test_what_cannot_be_measured_at_all_is_said(tmp_path: Path) -> None:
    for files, what in (([], "there are no files"), ([tmp_path / "a.pt"], "no backend opens .pt")):
        with pytest.raises(ConfigError, match=what):
            bench(files, timing="smoke", out=tmp_path / "out", store=Store(tmp_path / "s"))


def test_a_random_sample_fits_each_contract() -> None:
    from torchopt2edge.samples.random_inputs import random_items
    from torchopt2edge.types import Signature, TensorSpec

    ends = (TensorSpec("a", (-1, 3, 4)), TensorSpec("b", (1, 2), "int64"))
    items = random_items(Signature(ends, ()))
    assert [item["a"].shape for item in items] == [(1, 3, 4)] * 8
    assert {item["b"].dtype for item in items} == {np.dtype("int64")}
    assert len({item["a"].tobytes() for item in items}) == 8


def test_a_disk_that_fills_up_is_named_and_costs_no_row(
    images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the rows fit is for the speed of this machine to say; they are somewhere."""
    (tmp_path / "spare").mkdir()
    with full_disk(tmp_path / "small") as folder:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
        with pytest.raises(ConfigError, match="No space left") as caught:
            bench([images], timing="smoke", out=folder, store=Store(tmp_path / "s"))
        assert caught.value.artifact == str(folder)
        (kept,) = (*folder.glob("rows.jsonl"), *(tmp_path / "spare").glob("*/rows.jsonl"))
        assert str(kept.parent) in str(caught.value.hint)
        rows, _, _ = read(kept.parent)
        assert [row.err for row in rows] == [None]
        assert rows[0].latency_ns
        assert not [*folder.glob(".*")]


def test_a_name_that_says_backend_and_scheme_says_them_once(
    images: Path, words: Path, tmp_path: Path
) -> None:
    plan = {"timing": "smoke", "store": Store(tmp_path / "s")}
    plain = images.rename(tmp_path / "ort-fp32.onnx")
    named = words.rename(tmp_path / "words-ort-fp32.onnx")
    found = bench([plain, named], out=tmp_path / "out", **plan)
    assert {row.candidate for row in found.rows} == {"ort-fp32", "words-ort-fp32"}
    twin = write(tmp_path / "words.onnx", {"image": (TensorProto.FLOAT, [1, 3, 8, 8])})
    rows = bench([named, twin], out=tmp_path / "again", **plan).rows
    assert {row.candidate for row in rows} == {"words-ort-fp32-ort-fp32", "words-ort-fp32"}
