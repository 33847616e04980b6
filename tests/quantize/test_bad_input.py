"""Awkward calibration data and awkward graphs: a clear error, or int8 files that are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.conftest import users_cache
from tests.quantize.graphs import Arrays, floats, graph, norm, run, saved
from torchopt2edge import converter
from torchopt2edge.backends.litert.backend import LiteRT
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.errors import DataError, ExportError
from torchopt2edge.evaluation.parity import parity
from torchopt2edge.interfaces import Backend, Sources, TimedSession
from torchopt2edge.quantize.calibrate import calibrate
from torchopt2edge.quantize.equalization import equalize
from torchopt2edge.quantize.graph.lint import lint
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.store import Store
from torchopt2edge.types import SCHEMES, Artifact, Facts, Ranges
from torchopt2edge.workflow import calibration, float_graph

ORT = Ort(isa="portable")  # its outputs are checked on whatever processor this is
OPSETS = range(13, 22)
IMAGES = {"x": floats(8, 3, 16, 16)}


@dataclass(frozen=True)
class Int8:
    """An int8 file, with the float graph it came from."""

    proto: onnx.ModelProto
    ranges: Ranges
    facts: Facts
    session: TimedSession

    def sqnr_db(self, inputs: Arrays) -> float:
        """Compare the float outputs with those of the untouched float graph."""
        reference, outputs = run(self.proto, inputs), self.session(inputs)
        assert {k: v.dtype for k, v in outputs.items()} == {
            k: v.dtype for k, v in reference.items()
        }
        whole = [name for name, value in reference.items() if value.dtype.kind == "i"]
        for name in whole:
            assert (reference.pop(name) == outputs.pop(name)).mean() >= 0.75
        return parity(reference, outputs).sqnr_db


def shared(path: Path, folder: Path) -> tuple[Artifact, Store]:
    """Put an ONNX file on the hub, in a store of its own."""
    store = Store(folder / "store")
    return float_graph.share_graph(path, float_graph.file_digest(path), store), store


def lowered(
    proto: onnx.ModelProto, inputs: Arrays, folder: Path, backend: Backend = ORT, file: str = ""
) -> Int8:
    """Take a graph (or the file that holds it) through the pipeline to an int8 file."""
    path = Path(file) if file else saved(proto, folder / "given.onnx")
    shared_graph, store = shared(path, folder)
    count = len(next(iter(inputs.values())))
    kept = calibration.keep_samples([inputs], shared_graph, count, "train", store)
    ranges = calibrate(onnx.load(shared_graph.path / "model.onnx"), Samples(kept.path))["minmax"]
    with users_cache():
        base = backend.base(shared_graph, store)
    out = folder / backend.name
    out.mkdir()
    facts = backend.lower(Sources(shared_graph, base, ranges, kept.path), SCHEMES["int8"], out)
    signature = calibration.signature_in(out)
    return Int8(proto, ranges, facts, backend.open(out / str(facts["file"]), signature, 1))


def weights() -> Arrays:
    """Return the weights of `cnn`."""
    return {
        "w": floats(16, 3, 3, 3, seed=1) / 4,
        "v": floats(24, 16, 3, 3, seed=2) / 10,
        "c": floats(24, seed=3) / 4,
        "g": floats(10, 24, seed=4) / 4,
        "b": floats(10, seed=5),
        **norm(16, "n"),
    }


def cnn(opset: int = 18, batch: str = "batch") -> onnx.ModelProto:
    """Return a small classifier with what changed between the opsets."""
    mean = "ReduceMean<axes=[2,3], keepdims=0>(q)" if opset < 18 else "ReduceMean<keepdims=0>(q, a)"
    body = (
        "h = Conv<pads=[1,1,1,1]>(x, w) i = BatchNormalization(h, ns, nb, nm, nv) r = Relu(i) "
        f"m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) k = Conv(m, v, c) q = Relu(k) "
        f"f = {mean} y = Gemm<transB=1>(f, g, b)"
    )
    axes = {} if opset < 18 else {"a": np.array([2, 3])}
    text = f"(float[{batch},3,16,16] x) => (float[{batch},10] y) {{ {body} }}"
    return graph(text, {**weights(), **axes}, opset)


# Calibration data


def kept(inputs: object, folder: Path) -> None:
    """Offer calibration items for `cnn`."""
    given, store = shared(saved(cnn(), folder / "given.onnx"), folder)
    calibration.keep_samples([inputs], given, 8, "train", store)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_calibration_data_that_is_no_number(tmp_path: Path, value: float) -> None:
    images = IMAGES["x"].copy()
    images[5, 1, 2, 3] = value
    with pytest.raises(DataError, match="'x' holds NaN or infinity") as caught:
        kept(images, tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "shape", [(8, 16, 16, 3), (8, 3, 16, 15), (8, 3, 16), (16,), (2, 8, 3, 16, 16)]
)
def test_calibration_data_of_a_wrong_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"'x' has shape .*the model takes \[batch, 3, 16, 16\]"):
        kept(floats(*shape), tmp_path)


def test_a_net_that_makes_nan_of_good_data(tmp_path: Path) -> None:
    proto = graph("(float[n,3] x) => (float[n,3] y) { h = Log(x) y = Relu(h) }")
    with pytest.raises(DataError, match="'h' is nan on a calibration sample"):
        lowered(proto, {"x": floats(8, 3)}, tmp_path)


@pytest.mark.parametrize("calibrator", ["auto", "entropy", "percentile"])
@pytest.mark.parametrize("case", ["one", "black", "grey"])
def test_samples_that_tell_little(tmp_path: Path, case: str, calibrator: str) -> None:
    images = {"one": IMAGES["x"][:1], "black": np.zeros((4, 3, 16, 16), np.float32)}
    inputs = {"x": images.get(case, np.full((4, 3, 16, 16), 0.5, np.float32))}
    given, store = shared(saved(cnn(), tmp_path / "given.onnx"), tmp_path)
    samples = calibration.keep_samples([inputs], given, 4, "train", store)
    options = Quantize(observer=calibrator)
    decided = calibration.decide(given, samples, store, options)
    for low, high in decided.ranges.bounds.values():
        assert np.isfinite([low, high]).all()
        assert low <= high
    facts = ORT.lower(
        Sources(decided.graph, decided.graph, decided.ranges, samples.path),
        SCHEMES["int8"],
        tmp_path,
    )
    session = ORT.open(tmp_path / facts["file"], calibration.signature_in(tmp_path), 1)
    assert parity(run(cnn(), inputs), session(inputs)).sqnr_db > 20


# Graphs


@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(tmp_path: Path, opset: int) -> None:
    made = lowered(cnn(opset), IMAGES, tmp_path)
    assert made.sqnr_db(IMAGES) > 25
    assert onnx.load(tmp_path / "ort" / "model.onnx").opset_import[0].version == opset


@pytest.mark.parametrize("batch", ["batch", "1"])
def test_a_free_and_a_fixed_batch(tmp_path: Path, batch: str) -> None:
    made = lowered(cnn(batch=batch), IMAGES, tmp_path)
    whole = made.session(IMAGES)["y"]
    for at in (1, 3):
        part = made.session({"x": IMAGES["x"][:at]})["y"]
        np.testing.assert_array_equal(part, whole[:at])
    free = cnn()
    assert parity(run(free, IMAGES), {"y": whole}).sqnr_db > 25


def test_a_batch_of_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="batch of every input is fixed to 4"):
        lowered(cnn(batch="4"), IMAGES, tmp_path)


def test_external_data(tmp_path: Path) -> None:
    proto, path = cnn(), tmp_path / "given.onnx"
    split = onnx.ModelProto()
    split.CopyFrom(proto)
    onnx.save(split, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    made = lowered(proto, IMAGES, tmp_path, file=str(path))
    (tmp_path / "w.bin").unlink()
    assert made.sqnr_db(IMAGES) > 25


def test_external_data_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "given.onnx"
    onnx.save(cnn(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ExportError, match="not a valid ONNX file"):
        shared(path, tmp_path)


def test_weights_listed_as_inputs(tmp_path: Path) -> None:
    proto = cnn(13)
    for weight in proto.graph.initializer:
        value = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        proto.graph.input.append(value)
    proto.ir_version = 3
    made = lowered(proto, IMAGES, tmp_path)
    assert made.session.input_names == ("x",)
    assert made.sqnr_db(IMAGES) > 25


TWICE = "y = Conv<pads=[1,1,1,1]>(x, w, b) u = Conv<pads=[1,1,1,1]>(z, w, b)"


def twice(body: str = TWICE) -> onnx.ModelProto:
    """Return two branches, each with an input of its own, that share weights and bias."""
    text = "(float[n,3,16,16] x, float[n,3,16,16] z) => (float[n,8,16,16] y, float[n,8,16,16] u)"
    shared_weights = {"w": floats(8, 3, 3, 3, seed=1), "b": floats(8, seed=2)}
    return graph(f"{text} {{ {body} }}", {**shared_weights, **norm(8, "n"), **norm(8, "m")}, 13)


FAR = {"x": floats(8, 3, 16, 16), "z": 100 * floats(8, 3, 16, 16, seed=1)}


def test_two_inputs_and_shared_initializers(tmp_path: Path) -> None:
    """A bias has the scale of its node's input: here they are 100 times apart."""
    assert lowered(twice(), FAR, tmp_path).sqnr_db(FAR) > 30


def test_shared_weights_with_a_norm_each(tmp_path: Path) -> None:
    body = TWICE.replace("y =", "h =").replace("u =", "i =")
    body += " y = BatchNormalization(h, ns, nb, nm, nv) u = BatchNormalization(i, ms, mb, mm, mv)"
    made = lowered(twice(body), FAR, tmp_path)
    assert made.sqnr_db(FAR) > 30
    assert (
        sum(n.op_type == "Conv" for n in onnx.load(tmp_path / "ort" / "model.onnx").graph.node) == 2
    )


def test_calibration_data_for_one_input_of_two(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks"):
        lowered(twice(), {"x": FAR["x"]}, tmp_path)
    given, store = shared(tmp_path / "given.onnx", tmp_path)
    with pytest.raises(DataError, match="unequal numbers of samples"):
        calibration.keep_samples([{**FAR, "z": FAR["z"][:3]}], given, 8, "train", store)


WHOLE = (
    "(float[n,3,16,16] x, int64[n,1,1,1] k) => (float[n,8] y, int64[n,1] best)",
    "s = Cast<to=1>(k) r = Conv<pads=[1,1,1,1]>(x, w, b) m = Mul(r, s) q = Relu(m) "
    "d = Conv(q, v, e) dead = Relu(d) t = Add(q, dead) p = GlobalAveragePool(t) y = Flatten(p) "
    "best = ArgMax<axis=1>(y)",
)


def whole(opset: int = 21) -> onnx.ModelProto:
    """Return a net with an integer input and output, and a branch that is never active."""
    given = {
        "w": floats(8, 3, 3, 3, seed=1),
        "b": floats(8, seed=2),
        "v": floats(8, 8, 1, 1, seed=3) / 100,
        "e": np.full(8, -1000, np.float32),
    }
    return graph(f"{WHOLE[0]} {{ {WHOLE[1]} }}", given, opset)


MIXED = {"x": floats(8, 3, 16, 16), "k": np.arange(1, 9).reshape(8, 1, 1, 1)}


@pytest.mark.parametrize("opset", [13, 21])
def test_integers_in_and_out_and_a_tensor_never_active(tmp_path: Path, opset: int) -> None:
    made = lowered(whole(opset), MIXED, tmp_path)
    assert made.sqnr_db(MIXED) > 25
    assert "k" not in made.ranges.bounds
    assert made.ranges.bounds["dead"] == (0.0, 0.0)
    source = next((tmp_path / "store").rglob("model.onnx"))
    rules = {finding.rule for finding in lint(onnx.load(source), made.ranges)}
    assert rules == {"never-active", "integer-output"}


def test_integers_that_are_fractions_are_no_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        lowered(whole(), {**MIXED, "k": MIXED["k"] + np.float32(np.nan)}, tmp_path)


@pytest.mark.parametrize("make", [cnn, twice, whole])
def test_they_can_be_equalized(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    given, _ = shared(saved(make(), tmp_path / "given.onnx"), tmp_path)
    proto, _ = equalize(onnx.load(given.path / "model.onnx"))
    inputs = {cnn: IMAGES, twice: FAR, whole: MIXED}[make]
    before, after = run(make(), inputs), run(proto, inputs)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-3, atol=1e-3)


# The same through the converter


def test_litert_two_layers_that_are_equal_on_the_probe(
    tmp_path: Path, sealed: converter.Environment
) -> None:
    """The first samples are the same for both inputs, the others 100 times apart."""
    inputs = {name: array.copy() for name, array in FAR.items()}
    inputs["z"][:4] = inputs["x"][:4]
    made = lowered(twice(), inputs, tmp_path, LiteRT())
    assert made.sqnr_db(inputs) > 30
    late = {name: array[4:] for name, array in inputs.items()}
    assert made.sqnr_db(late) > 30


def test_litert_integers_and_a_tensor_never_active(
    tmp_path: Path, sealed: converter.Environment
) -> None:
    assert lowered(whole(), MIXED, tmp_path, LiteRT()).sqnr_db(MIXED) > 25
