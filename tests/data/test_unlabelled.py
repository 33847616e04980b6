"""Data without labels: pictures in any folder, arrays by the names of the inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.quantize.graphs import floats, graph, saved
from torchopt2edge.cli.main import main
from torchopt2edge.data.arrays import Arrays
from torchopt2edge.data.pictures import Pictures
from torchopt2edge.errors import DataError

TEXT = """(float[n,3,h,w] x) => (float[n,4] y) {
    a = Conv(x, k) b = Relu(a) c = GlobalAveragePool(b) y = Flatten(c) }"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Return a model that takes pictures of any size."""
    return saved(graph(TEXT, {"k": floats(4, 3, 3, 3)}), tmp_path / "net.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of pictures of several sizes, some of them deeper."""
    for at in range(6):
        file = tmp_path / "photos" / ("deep" if at % 2 else ".") / f"{at}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(at).integers(0, 256, (30 + at, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    return tmp_path / "photos"


def test_pictures_are_brought_to_a_size(folder: Path) -> None:
    data = Pictures(root=str(folder), size=(16, 24), calibration_count=4)
    split = data.split("calibration")
    assert len(split) == 4
    assert tuple(split[0].shape) == data.input_shape == (3, 16, 24)
    with pytest.raises(DataError, match="neither train"):
        data.split("test")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no picture"):
        Pictures(root=str(tmp_path)).split("calibration")
    with pytest.raises(DataError, match="missing"):
        Pictures(root=str(tmp_path / "absent")).split("calibration")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": floats(4, 2), "b": floats(3, 2)}, "'b': 3"),
        ({"a": np.float32(1)}, "'a': 0"),
        ({}, "{}"),
    ],
)
def test_arrays_that_are_no_samples(arrays: dict, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=said):
        Arrays(path=str(tmp_path / "x.npz")).split("calibration")


@pytest.mark.parametrize("content", [b"", b"no", b"PK\x03\x04cut"])
def test_a_damaged_file_of_arrays(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        Arrays(path=str(tmp_path / "x.npz")).split("calibration")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        Arrays(path=str(tmp_path / "x.npy")).split("calibration")


@pytest.mark.parametrize("kind", ["pictures", "npz", "npy"])
def test_a_person_with_nothing_but_an_onnx(
    kind: str, net: Path, folder: Path, tmp_path: Path
) -> None:
    words = ["data=pictures", f"data.root={folder}", "data.size=[16,24]"]
    if kind != "pictures":
        file = tmp_path / f"samples.{kind}"
        np.savez(file, x=floats(8, 3, 16, 24)) if kind == "npz" else np.save(
            file, floats(8, 3, 16, 24)
        )
        words = ["data=arrays", f"data.path={file}"]
    out = tmp_path / "run"
    how = ["backend=[ort]", "timing=smoke", f"out={out}"]
    assert main(["compare", f"model.path={net}", *words, *how]) == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert {row["candidate"]: row["err"] for row in rows} == {"ort-fp32": None, "ort-int8": None}
    assert all("top1" not in row["metrics"] for row in rows)
