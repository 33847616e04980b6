"""The Python API end to end on a tiny net: every part real, every failure a row."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchopt2edge as t2e
from tests.conftest import users_cache
from tests.hub import TinyCnn
from torchopt2edge.backends.litert.backend import LiteRT
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.converter import Environment
from torchopt2edge.errors import ConfigError, DataError, EdgeError, ModelError, VerifyError
from torchopt2edge.store import Store

Batches = list[tuple[Tensor, Tensor]]
EXAMPLES = (torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(4)),)


@pytest.fixture(autouse=True)
def _cache() -> Iterator[None]:
    with users_cache():
        yield


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(1)
    made = TinyCnn()
    for _ in range(20):
        made.train()(torch.randn(16, 3, 32, 32))
    return made.eval()


def batches(net: nn.Module, seed: int, count: int) -> Batches:
    """Random images, labelled by the net itself: its own top-1 is 100 %."""
    torch.manual_seed(seed)
    images = torch.randn(count, 3, 32, 32)
    with torch.no_grad():
        return [(x, net(x).argmax(1)) for x in images.split(16)]


@pytest.fixture(scope="module")
def calibration(net: nn.Module) -> Batches:
    return batches(net, 2, 32)


@pytest.fixture(scope="module")
def evaluation_set(net: nn.Module) -> Batches:
    return batches(net, 3, 64)


@pytest.fixture(scope="module")
def result(
    net: nn.Module,
    calibration: Batches,
    evaluation_set: Batches,
    sealed: Environment,
    hub_store: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> t2e.Result:
    """The README's call."""
    out = tmp_path_factory.mktemp("compare") / "run"
    with users_cache():
        return t2e.compare(
            net,
            example_inputs=(torch.randn(4, 3, 32, 32),),
            calibration=calibration,
            evaluate=evaluation_set,
            backends=("ort", "litert"),
            schemes=("fp32", "int8"),
            device=t2e.devices.Local(threads=1),
            timing="smoke",
            out=out,
            store=hub_store,
        )


def test_every_candidate_is_a_row_with_its_numbers(result: t2e.Result) -> None:
    rows = {row.candidate: row for row in result.rows}
    assert list(rows) == ["torch-fp32", "ort-fp32", "ort-int8", "litert-fp32", "litert-int8"]
    for row in result.rows:
        assert row.err is None, row.err
        assert {"latency_ms", "memory_mb", "size_mb", "top1", "sqnr_db"} <= set(row.metrics)
        assert {"load_ms", "first_ms", "import_ms"} <= set(row.metrics)
        assert len(row.latency_ns) == 8
        assert all(one > 0 for samples in row.latency_ns for one in samples)
        assert row.facts["runtime_version"]
    assert rows["torch-fp32"].facts["reference"] is True
    assert rows["litert-int8"].facts["ranges_matched"] == 100.0


def test_both_runtimes_compute_the_same_integers(result: t2e.Result) -> None:
    rows = {row.candidate: row for row in result.rows}
    ort, litert = (rows[f"{name}-int8"].metrics["sqnr_db"] for name in ("ort", "litert"))
    assert min(ort, litert) > 20
    assert abs(ort - litert) < 2  # dB: the same ranges, another rounding
    assert rows["ort-int8"].metrics["top1"] >= 90


def test_the_verdict_is_computed_from_the_rows(result: t2e.Result) -> None:
    from torchopt2edge.verdict.decide import decide

    kept = [
        t2e.Measurement.from_json(json.loads(line))
        for line in (result.out / "rows.jsonl").read_text().splitlines()
    ]
    assert decide(kept, t2e.Constraints(), "torch-fp32") == result.verdict
    verdict = result.verdict
    named = {verdict.winner} if verdict.winner else set(verdict.tie)
    assert named <= {row.candidate for row in result.rows} - {"torch-fp32"}
    assert verdict.reasons


def test_the_run_folder_holds_what_a_person_needs(result: t2e.Result) -> None:
    held = {path.name for path in result.out.iterdir()}
    assert {"rows.jsonl", "verdict.json", "report.md", "figures", "artifacts"} <= held
    link = result.out / "artifacts" / "litert-int8.tflite"
    assert link.read_bytes()[4:8] == b"TFL3"


def test_a_second_run_takes_everything_but_the_measuring_from_the_store(
    result: t2e.Result,
    net: nn.Module,
    calibration: Batches,
    evaluation_set: Batches,
    hub_store: Store,
    tmp_path: Path,
) -> None:
    before = made(hub_store)
    again = t2e.compare(
        net, (torch.randn(4, 3, 32, 32),), calibration, evaluation_set,
        timing="smoke", out=tmp_path / "again", store=hub_store,
    )  # fmt: skip
    after = made(hub_store)
    # A plain loader has no identity, so its scores are computed again; nothing else is.
    assert {kind for kind, _ in after - before} <= {"onnx"}
    assert [r.facts.get("digest") for r in again.rows] == [
        r.facts.get("digest") for r in result.rows
    ]


def made(store: Store) -> set[tuple[str, str]]:
    """Kind and key of every artifact in the store."""
    records = [json.loads(p.read_text()) for p in store.root.glob("*/*/artifact.json")]
    return {(record["kind"], record["key"]) for record in records}


def quick(model: Any, calibration: Any, tmp_path: Path, **settings: Any) -> t2e.Result:
    """A comparison as short as it gets; the net is exported once for all of them."""
    usual = {"timing": "smoke", "backends": ("ort",), "baseline": False}
    settings = {**usual, "store": Store(tmp_path.with_name("quick")), **settings}
    example = EXAMPLES if isinstance(model, nn.Module) else None
    return t2e.compare(model, example, calibration, out=tmp_path / "out", **settings)


def test_a_callable_metric_speaks_the_models_own_names_and_layout(
    net: nn.Module, calibration: Batches, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def evaluate(session: Any) -> dict[str, float]:
        image = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
        outputs = session({"image": image})
        seen.append((session.input_names, outputs["output"].shape))
        return {"psnr": 31.5}

    found = quick(net, calibration, tmp_path, evaluate=evaluate)
    assert seen == [(("image",), (5, 10))] * 2
    assert [row.metrics["psnr"] for row in found.rows] == [31.5, 31.5]
    assert found.rows[0].facts["metric"] == "psnr"


def test_a_calibration_sample_that_is_scored_is_an_error(
    net: nn.Module, calibration: Batches, evaluation_set: Batches, tmp_path: Path
) -> None:
    mixed = [*calibration, evaluation_set[0]]
    with pytest.raises(DataError, match="16 of 48 calibration samples"):
        quick(net, mixed, tmp_path, evaluate=evaluation_set)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([], "calibration set is empty"),
        ([torch.randn(2, 3, 16, 16)], "shape"),
        ([torch.full((2, 3, 32, 32), torch.nan)], "NaN"),
    ],
)
def test_calibration_that_cannot_be_used(
    bad: Any, said: str, net: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        quick(net, bad, tmp_path)


def test_without_calibration_int8_is_a_row_that_says_so(
    net: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("torchopt2edge").propagate = True
    rows = {row.candidate: row for row in quick(net, None, tmp_path).rows}
    assert "calibration" in str(rows["ort-int8"].err)
    assert rows["ort-fp32"].err is None
    assert "no calibration data" in caplog.text


def test_a_run_leaves_the_threads_of_pytorch_as_they_were(net: nn.Module, tmp_path: Path) -> None:
    """They are the whole process's, and a training may go on after the run."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        quick(net, None, tmp_path, schemes=("fp32",), store=Store(tmp_path / "store"))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_scheme_or_backend_that_is_not_there(
    net: nn.Module, calibration: Batches, tmp_path: Path
) -> None:
    found = quick(net, calibration, tmp_path, schemes=("fp32", "int2"))
    (row,) = [row for row in found.rows if row.candidate == "ort-int2"]
    assert "schemes=[fp32,fp16," in str(row.err)
    with pytest.raises(ConfigError, match="one of litert, ort"):
        quick(net, calibration, tmp_path, backends=("onnx",))
    with pytest.raises(ConfigError, match="did you mean timing"):
        quick(net, calibration, tmp_path, protocoll="smoke")


def test_examples_may_be_of_the_samples_that_are_scored_for_they_calibrate_nothing(
    net: nn.Module, evaluation_set: Batches, tmp_path: Path, hub_store: Store
) -> None:
    given = {"evaluate": evaluation_set, "backends": ("ort",), "store": hub_store, "out": tmp_path}
    examples = (evaluation_set[0][0],)
    (row,) = t2e.quantize(net, examples, schemes=("fp32",), baseline=False, **given).rows
    assert row.err is None
    with pytest.raises(DataError, match="also in the evaluation set"):
        t2e.quantize(net, examples, evaluation_set[:1], **given)


class Nan(nn.Module):
    """Divides by zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Give NaN for every input."""
        zero = x.mean((2, 3)) * 0
        return zero / zero


def test_a_model_that_says_nan(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"NaN|finite"):
        quick(Nan(), [torch.randn(8, 3, 32, 32)], tmp_path)


def test_a_model_that_is_not_there_or_not_float(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        quick("none.onnx", None, tmp_path)
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x08\x0a" + b"garbage" * 20)
    with pytest.raises(EdgeError, match="not a valid ONNX"):
        quick(str(garbage), None, tmp_path)
    with pytest.raises(ModelError, match="example inputs"):
        t2e.compare(nn.Identity(), store=Store(tmp_path))


def test_a_converter_that_hangs_loses_only_its_own_rows(
    result: t2e.Result, net: nn.Module, calibration: Batches, tmp_path: Path
) -> None:
    given = {"backends": (Ort(), LiteRT(timeout_s=0.5)), "store": Store(tmp_path / "store")}
    rows = {r.candidate: r for r in quick(net, calibration, tmp_path, **given).rows}
    assert rows["ort-int8"].err is None
    assert "0.5" in str(rows["litert-fp32"].err)
    assert "0.5" in str(rows["litert-int8"].err)
    again = {r.candidate: r for r in quick(net, calibration, tmp_path, store=given["store"]).rows}
    assert again["ort-int8"].err is None


def test_a_missing_converter_says_the_command(
    net: nn.Module, calibration: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHOPT2EDGE_CACHE", str(tmp_path / "empty"))
    given = {"backends": ("ort", "litert"), "schemes": ("fp32",)}
    rows = quick(net, calibration, tmp_path, store=Store(tmp_path / "store"), **given).rows
    errors = {row.candidate: row.err for row in rows}
    assert errors["ort-fp32"] is None
    assert "torchopt2edge converter install" in str(errors["litert-fp32"])


class Lossy(nn.Module):
    """A range that one outlier stretches a thousandfold: eight bits cannot hold the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 10, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score by what is left after the outliers cancel."""
        small = self.head(image)
        large = torch.cat([small, 1e5 * image[:, :1].tanh()], 1)
        return (large[:, :10]).mean((2, 3))


def test_outputs_below_the_floor_of_the_scheme_are_a_failed_row(tmp_path: Path) -> None:
    found = quick(Lossy(), [torch.randn(16, 3, 32, 32)], tmp_path)
    rows = {row.candidate: row for row in found.rows}
    assert "differ from the reference" in str(rows["ort-int8"].err)
    assert "latency_ms" not in rows["ort-int8"].metrics
    assert rows["ort-fp32"].err is None
    assert issubclass(VerifyError, EdgeError)
