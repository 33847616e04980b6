"""Models as people ship them: names, free sizes, states, scalars, tokens, masks, boxes, damage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import torchopt2edge as t2e
from tests.conftest import users_cache
from tests.quantize.graphs import Arrays, floats, graph, saved
from torchopt2edge import converter
from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.store import Store
from torchopt2edge.types import Measurement, Signature


@pytest.fixture(autouse=True)
def _cache(sealed: converter.Environment) -> Iterator[None]:
    with users_cache():
        yield


HOSTILE = {
    "a": "Conv@0",
    "b": "conv@0",
    "c": "a b: c/é",
    "d": "x" * 400,
    "g": "日本",
    "f": "Softmax@0",
    "w": "w:0",
    "x": "in put/@0",
    "y": "out:0 @",
}


def scaled(*shape: int, seed: int = 0) -> np.ndarray:
    """Return weights under which values neither grow nor vanish."""
    return floats(*shape, seed=seed) / np.float32(np.sqrt(np.prod(shape[1:])))


def rows(
    proto: onnx.ModelProto | nn.Module, samples: Sequence[Any], tmp_path: Path, **settings: Any
) -> dict[str, Measurement]:
    """Make and check the float and the int8 file of each runtime; return the rows by candidate."""
    model = proto if isinstance(proto, nn.Module) else saved(proto, tmp_path / "net.onnx")
    example = samples[0] if isinstance(proto, nn.Module) else None
    found = t2e.quantize(
        model,
        example,
        samples,
        schemes=("fp32", "int8"),
        baseline=False,
        store=Store(tmp_path / "store"),
        out=tmp_path / "out",
        **settings,
    )
    return {row.candidate: row for row in found.rows}


def assert_right(found: dict[str, Measurement], least_db: float = 25.0) -> None:
    """Require four good files, the integer ones of the two runtimes alike."""
    assert {name: row.err for name, row in found.items() if row.err} == {}
    for backend in ("ort", "litert"):
        assert found[f"{backend}-fp32"].metrics["sqnr_db"] > 90
        assert found[f"{backend}-int8"].metrics["sqnr_db"] > least_db


def renamed(proto: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """Return the graph with other names for its tensors, and its nodes named after them."""
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = node.output[0]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.name = names.get(value.name, value.name)
    return proto


def test_names_that_tensorflow_cannot_take_come_back_as_they_were(tmp_path: Path) -> None:
    text = """(float[n,3,h,w] x) => (float[n,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, v) d = Sigmoid(c)
        g = GlobalAveragePool(d) f = Flatten(g) h = MatMul(f, m) y = Softmax(h) }"""
    weights = {"w": scaled(8, 3, 3, 3), "v": scaled(8, 8, 3, 3, seed=1), "m": scaled(8, 5, seed=2)}
    proto = renamed(graph(text, weights), HOSTILE)
    found = rows(proto, [floats(8, 3, 16, 20)], tmp_path)
    assert_right(found)
    declared = (tmp_path / "out/artifacts/litert-int8.signature.json").read_text()
    signature = Signature.from_json(json.loads(declared))
    assert [spec.name for spec in (*signature.inputs, *signature.outputs)] == [
        HOSTILE["x"],
        HOSTILE["y"],
    ]
    assert signature.inputs[0].shape == (1, 3, 16, 20), "the free size is that of the samples"


def test_a_free_size_is_given_or_asked_for(tmp_path: Path) -> None:
    text = "(float[n,3,h,w] x) => (float[n,4,a,b] y) { c = Conv(x, w1) y = Relu(c) }"
    proto = graph(text, {"w1": scaled(4, 3, 3, 3)})
    file = saved(proto, tmp_path / "net.onnx")
    how: dict[str, Any] = {"backends": ("ort",), "schemes": ("fp32",), "timing": "smoke"}
    how |= {"store": Store(tmp_path / "store"), "out": tmp_path / "out"}
    with pytest.raises(ExportError, match=r"x \[free, 3, free, free\]"):
        t2e.compare(file, **how)
    made = t2e.compare(file, shapes=[3, 12, 16], **how)
    assert made.rows[0].err is None
    how = {"timing": "smoke", "out": tmp_path / "timed"}
    (timed,) = t2e.bench([file], shapes={"x": [1, 3, 12, 16]}, **how).rows
    assert timed.err is None
    (refused,) = t2e.bench([file], **how).rows
    assert "shapes={x: [1, 3, …, …]}" in str(refused.err)


def test_a_state_and_a_scalar_run_sample_by_sample(tmp_path: Path) -> None:
    text = """(float[n,6] x, float[1,n,8] s, float rate) => (float[n,4] y, float[1,n,8] t) {
        a = Gemm(x, w) k = Squeeze(s, ax) b = Add(a, k) c = Tanh(b) m = Mul(c, rate)
        y = Gemm(m, v) t = Unsqueeze(c, ax) }"""
    proto = graph(text, {"w": scaled(6, 8), "v": scaled(8, 4), "ax": np.array([0])})
    samples = [
        {"x": floats(1, 6, seed=at), "s": floats(1, 1, 8, seed=at + 50), "rate": np.float32(0.5)}
        for at in range(16)
    ]
    assert_right(rows(proto, samples, tmp_path))


def test_tokens_stay_within_their_table(tmp_path: Path) -> None:
    text = """(int64[n,12] ids, int64[n,12] mask) => (float[n,5] y) {
        e = Gather(table, ids) f = Cast<to=1>(mask) m = Unsqueeze(f, two) g = Mul(e, m)
        h = MatMul(g, w) r = Relu(h) p = ReduceMean<keepdims=0>(r, one) y = Gemm(p, v) }"""
    axes = {"one": np.array([1]), "two": np.array([2])}
    weights = {"table": floats(7, 16), "w": scaled(16, 24), "v": scaled(24, 5), **axes}
    chance = np.random.default_rng(0)
    samples = [
        {"ids": chance.integers(0, 7, (4, 12)), "mask": chance.integers(0, 2, (4, 12))}
        for _ in range(6)
    ]
    assert_right(rows(graph(text, weights), samples, tmp_path))


class Boxes(nn.Module):
    """Boxes in pixels beside probabilities, joined in one tensor, as a YOLO is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.box, self.kind = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return [N, 7, boxes]."""
        seen = self.body(image)
        kinds = self.kind(seen).flatten(2).sigmoid()
        return torch.cat([self.box(seen).flatten(2) * 300 + 160, kinds], 1)


def test_a_detectors_int8_keeps_its_probabilities(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(16, 3, 32, 40)
    net = Boxes()
    found = rows(net, [images], tmp_path)
    assert_right(found)
    for backend in ("ort", "litert"):
        assert found[f"{backend}-int8"].facts["int8_macs"] > 99
        assert found[f"{backend}-int8"].facts["excluded"]
    without = rows(net, [images], tmp_path / "without", quantize=Quantize(repair=False))
    for backend in ("ort", "litert"):
        assert "columns 4 to 6 of axis 1" in " ".join(without[f"{backend}-int8"].facts["notes"])


def test_a_mask_is_judged_by_equal_elements(tmp_path: Path) -> None:
    text = """(float[n,3,16,20] x) => (int64[n,16,20] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Conv(b, v)
        y = ArgMax<axis=1, keepdims=0>(c) }"""
    weights = {"w": scaled(8, 3, 3, 3), "v": scaled(5, 8, 1, 1)}
    found = rows(graph(text, weights), [floats(8, 3, 16, 20)], tmp_path)
    assert {name: row.err for name, row in found.items() if row.err} == {}
    for name, row in found.items():
        assert "sqnr_db" not in row.metrics
        assert row.metrics["equal"] > (99.9 if "fp32" in name else 95)


def test_what_one_backend_cannot_make_leaves_the_other(tmp_path: Path) -> None:
    """The refusal says at which operator the file parts, in the model's own names."""
    text = """(float[n,16,16,16] x) => (float[n,16] y) {
        r = Relu(x) c = CumSum(r, two) g = GlobalAveragePool(c) y = Flatten(g) }"""
    found = rows(graph(text, {"two": np.array(2)}), [floats(8, 16, 16, 16)], tmp_path)
    assert found["ort-fp32"].err is None
    said = str(found["litert-fp32"].err)
    assert "parts at CumSum" in said
    assert "16×16×16" in said
    assert found["litert-int8"].err == found["litert-fp32"].err


NETS: dict[str, Any] = {
    "one tensor": lambda x: x,
    "a tuple": lambda x: (x,),
    "keywords": lambda x: {"image": x},
}


@pytest.mark.parametrize("given", NETS.values(), ids=NETS)
def test_example_inputs_of_every_form(given: Any, tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.head(image)}

    net = nn.DataParallel(Wrapped())
    found = t2e.quantize(
        net,
        given(torch.randn(8, 4)),
        [torch.randn(8, 4)],
        backends=("ort",),
        schemes=("fp32",),
        store=Store(tmp_path / "store"),
        out=tmp_path / "out",
    )
    assert [row.err for row in found.rows] == [None] * len(found.rows)


FOREIGN = (KeyError("k"), RuntimeError("r\nsecond"), MemoryError())


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("torchopt2edge.backends.litert.backend.quantize", "litert-int8"),
        ("torchopt2edge.quantize.qdq_writer.quantize_graph", "ort-int8"),
        ("torchopt2edge.workflow.calibration.deciding.decide", "int8"),
        ("torchopt2edge.quantize.equalization.equalize", ""),
        ("torchopt2edge.quantize.bias_correction.correct_bias", ""),
        ("torchopt2edge.quantize.repair.repair", ""),
    ],
)
def test_a_foreign_failure_never_leaves_its_room(
    place: str, said: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    text = "(float[n,3,8,8] x) => (float[n,4,6,6] y) { a = Conv(x, w) y = Relu(a) }"
    proto: Arrays | onnx.ModelProto = graph(text, {"w": scaled(4, 3, 3, 3)})
    monkeypatch.setattr(place, fail)
    found = rows(proto, [floats(8, 3, 8, 8)], tmp_path, quantize=Quantize(poor_db=200.0))
    broken = {name for name, row in found.items() if row.err}
    assert broken == {name for name in found if said and name.endswith(said)}
    for name in broken:
        assert type(error).__name__ in str(found[name].err)
