"""Files without timing, and every way into the quantization room, on a tiny net."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import torchopt2edge as t2e
from tests.conftest import users_cache
from tests.hub import Made
from torchopt2edge import converter
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.cli.main import main
from torchopt2edge.errors import ExportError
from torchopt2edge.interfaces import Sources
from torchopt2edge.quantize.held_out import Validation
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.store import Store
from torchopt2edge.types import SCHEMES, Ranges, Signature
from torchopt2edge.workflow import calibration
from torchopt2edge.workflow.lowering import signature_in

ALL = tuple(SCHEMES)


@pytest.fixture(autouse=True)
def _cache(sealed: converter.Environment) -> Iterator[None]:
    with users_cache():
        yield


def test_every_scheme_is_a_file_or_a_row_that_says_why_not(
    tiny: Made, hub_store: Store, tmp_path: Path
) -> None:
    images = torch.from_numpy(tiny.inputs["image"])
    found = t2e.quantize(
        tiny.net,
        (images[:4],),
        [images],
        schemes=ALL,
        baseline=False,
        store=hub_store,
        out=tmp_path,
    )
    rows = {row.candidate: row for row in found.rows}
    assert set(rows) == {f"{backend}-{scheme}" for backend in ("ort", "litert") for scheme in ALL}
    broken = {name: str(row.err) for name, row in rows.items() if row.err is not None}
    assert set(broken) == {"ort-int16x8"}
    assert "does not take the scheme 'int16x8'" in broken["ort-int16x8"]
    for name, row in rows.items():
        if name not in broken:
            declared, file = sorted(
                (tmp_path / "artifacts").glob(f"{name}.*"), key=lambda path: path.suffix != ".json"
            )
            assert file.is_file()
            assert not file.is_symlink(), "the folder can be copied, and the store deleted"
            assert Signature.from_json(json.loads(declared.read_text())).inputs
            assert "latency_ms" not in row.metrics
            assert row.metrics["size_mb"] > 0
            assert row.metrics["sqnr_db"] >= SCHEMES[row.scheme].min_sqnr_db
    for backend in ("ort", "litert"):
        size = {s: rows[f"{backend}-{s}"].metrics["size_mb"] for s in ("fp32", "fp16", "int8")}
        assert size["int8"] < size["fp16"] < size["fp32"]
        assert rows[f"{backend}-int8"].facts["int8_macs"] > 90
        assert rows[f"{backend}-int8"].facts["ranges_origin"].startswith("calibrated:")
    assert any("NPU" in note for note in rows["litert-int16x8"].facts["notes"])
    assert found.verdict.winner is None
    report = (tmp_path / "report.md").read_text()
    assert "## What the files hold" in report
    assert "SQNR at the output by observer" in report


def test_a_quantized_onnx_gives_its_ranges_to_both_runtimes(
    tiny: Made, hub_store: Store, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    given = Sources(tiny.graph, tiny.graph, tiny.ranges, tiny.samples.path)
    Ort(isa="portable").lower(given, SCHEMES["int8"], made)
    qdq = tmp_path / "qdq.onnx"
    qdq.write_bytes((made / "model.onnx").read_bytes())
    images = tiny.inputs["image"]
    found = t2e.quantize(
        qdq, None, [images], schemes=("int8",), store=hub_store, out=tmp_path / "run"
    )
    for row in found.rows:
        assert row.err is None
        assert row.facts["ranges_origin"] == "learned:qat"
        assert row.metrics["sqnr_db"] > 25
    first = Ort().open(made / "model.onnx", signature_in(made), 1)({"image": images})
    again = next(Path(row.facts["file"]) for row in found.rows if row.backend == "ort")
    second = Ort().open(again, signature_in(again.parent), 1)({"image": images})
    for one, other in zip(first.values(), second.values(), strict=True):
        assert np.mean(one.argmax(1) == other.argmax(1)) == 1.0


def test_ranges_that_are_not_ours_are_refused_by_name(tiny: Made, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((tiny.graph.path / "model.onnx").read_bytes())
    (tmp_path / "ranges.json").write_text('{"input": 3}')
    with pytest.raises(ExportError, match="ranges beside this model"):
        t2e.quantize(tmp_path / "model.onnx", None, [tiny.inputs["image"]], out=tmp_path / "run")


def test_loaders_of_raw_images_are_preprocessed_from_the_signature(
    tiny: Made, hub_store: Store, tmp_path: Path
) -> None:
    chance = np.random.default_rng(0)
    raw = chance.integers(0, 256, (24, 32, 32, 3), np.uint8)
    how = t2e.Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    graph = tiny.graph.path / "model.onnx"
    wanted = how(raw)
    scores = []
    for name, images in (("raw", raw), ("floats", wanted)):
        found = t2e.quantize(
            graph,
            None,
            [images],
            schemes=("int8_io",),
            backends=("ort",),
            baseline=False,
            preprocess=how,
            store=hub_store,
            out=tmp_path / name,
        )
        (row,) = found.rows
        assert row.err is None
        scores.append(row.metrics["sqnr_db"])
        kept = signature_in(Path(row.facts["file"]).parent)
        assert kept.inputs[0].preprocess == how
        assert kept.inputs[0].file_dtype in ("uint8", "int8")
    assert scores[0] == scores[1]


def test_a_search_that_was_killed_goes_on_where_it_was(
    tiny: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[str, ...]] = []
    real = Validation.drop

    def drop(self: Validation, ranges: Ranges) -> float:
        judged.append(ranges.excluded)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return real(self, ranges) + 10.0  # never within the budget: every evaluation is used

    monkeypatch.setattr(Validation, "drop", drop)
    options = Quantize(observer="minmax", max_drop=0.0)
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        calibration.decide(tiny.graph, tiny.samples, store, options)
    before = judged[:2]
    found = calibration.decide(tiny.graph, tiny.samples, store, options)
    assert not set(before) & set(judged[3:])
    assert found.facts["mixed"]["evaluations"] == len(judged) - 1
    assert not list(tmp_path.rglob("*.trail.json"))


def test_the_command_makes_files_and_ranks_the_operators(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["model=resnet8", "data=digits", "backend=[ort]", "schemes=[int8]"]
    words += ["calibration_samples=32", "quantize.observer=percentile"]
    assert main(["quantize", *words, "quantize.sensitivity=true", f"out={out}"]) == 0
    assert (out / "figures/sensitivity-1.svg").is_file()
    (file,) = (out / "artifacts").glob("*.onnx")
    onnx.checker.check_model(onnx.load(file))
    context = json.loads((out / "context.json").read_text())
    (decision,) = context["decisions"]
    assert decision["origin"] == "calibrated:percentile"
    assert decision["sensitivity"]
    row = json.loads((out / "rows.jsonl").read_text())
    assert row["facts"]["n_eval"] == 540
