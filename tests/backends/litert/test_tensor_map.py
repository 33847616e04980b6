"""The rules of matching by number, on planted values and on what the real converter writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.hub import Made
from torchopt2edge.backends.file_session import FileSession
from torchopt2edge.backends.litert import tensor_map as room
from torchopt2edge.backends.litert.flatbuffer import Op, Tensor, TfliteGraph, extremes, read_graph
from torchopt2edge.backends.litert.tensor_map import Transfer, match, transfer
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Artifact, Manifest, Ranges, Signature

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((3, 1, 4, 5, 6)).astype(np.float32), RNG.standard_normal((3, 1, 7))
NHWC = (0, 2, 3, 1)


def ranges(**bounds: tuple[float, float]) -> Ranges:
    """Return ranges with nothing else to say."""
    return Ranges(bounds, "test", Manifest("calibration", ()))


def probe(**arrays: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return the arrays sample by sample."""
    count = len(next(iter(arrays.values())))
    return [{name: array[at] for name, array in arrays.items()} for at in range(count)]


# T1


def test_t1_another_layout_is_the_same_tensor() -> None:
    turned = np.stack([sample.transpose(NHWC) for sample in A])
    found = match(probe(a=A, b=B), probe(y=B, x=turned), ranges(a=(-4, 4), b=(-3, 3)))
    assert found == {"x": ("a",), "y": ("b",)}


def test_t1_rounding_is_forgiven() -> None:
    close = A * np.float32(1 + 1e-5)
    assert match(probe(a=A), probe(x=close), ranges(a=(-4, 4))) == {"x": ("a",)}


@pytest.mark.parametrize(
    "other", [A * np.float32(1.01), A + np.float32(0.1), -A, A[..., :5], np.maximum(A, 0)]
)
def test_t1_other_values_are_another_tensor(other: np.ndarray) -> None:
    assert match(probe(a=A), probe(x=other), ranges(a=(-4, 4))) == {}


def test_t1_equal_extremes_are_not_enough() -> None:
    other = A.copy()
    flat = other.reshape(3, -1)
    middle = np.argsort(flat, axis=1)[:, 40:60]
    np.put_along_axis(flat, middle, np.float32(0.5), axis=1)
    assert (other.min(), other.max()) == (A.min(), A.max())
    assert match(probe(a=A), probe(x=other), ranges(a=(-4, 4))) == {}


def test_t1_every_sample_must_agree() -> None:
    other = A.copy()
    other[2] *= 2
    assert match(probe(a=A[:2]), probe(x=other[:2]), ranges(a=(-4, 4))) == {"x": ("a",)}
    assert match(probe(a=A), probe(x=other), ranges(a=(-4, 4))) == {}


def test_an_onnx_tensor_without_a_range_is_no_twin() -> None:
    assert match(probe(a=A), probe(x=A), ranges(b=(-4, 4))) == {}


# T2


@pytest.mark.parametrize("value", [0.0, 6.0])
def test_t2_a_constant_tells_nothing(value: float) -> None:
    flat = np.full_like(A, value)
    assert match(probe(a=flat), probe(x=flat), ranges(a=(0, 6))) == {}


def test_t2_constant_on_one_sample_is_enough_to_doubt() -> None:
    dead = A.copy()
    dead[1] = 0.0
    assert match(probe(a=dead), probe(x=dead), ranges(a=(-4, 4))) == {}


# T3


def test_t3_equal_on_the_probe_and_of_other_ranges() -> None:
    assert match(probe(a=A, b=A), probe(x=A), ranges(a=(-4, 4), b=(0, 6))) == {}


def test_t3_equal_everywhere_is_one_tensor_under_two_names() -> None:
    assert match(probe(b=A, a=A), probe(x=A), ranges(a=(-4, 4), b=(-4, 4.0001))) == {
        "x": ("a", "b")
    }


def test_t3_the_probe_may_tell_them_apart() -> None:
    other = A.copy()
    other[2] *= 2
    twins = ranges(a=(-4, 4), b=(-8, 8))
    assert match(probe(a=A, b=other), probe(x=A, y=other), twins) == {"x": ("a",), "y": ("b",)}


# False matches, planted


def test_the_same_values_in_other_places_have_the_same_range() -> None:
    chance = np.random.default_rng(1)
    within = np.stack([chance.permuted(sample.reshape(4, 30), axis=1) for sample in A[:, 0]])
    shuffled = within.reshape(A.shape)
    assert (shuffled != A).any()
    assert match(probe(a=A), probe(x=shuffled), ranges(a=(-4, 4))) == {"x": ("a",)}
    # Beside the true twin it would be taken for it as well, unless their ranges differ (T3).
    twins = probe(a=A, b=shuffled)
    assert match(twins, probe(x=A), ranges(a=(-4, 4), b=(-4, 4))) == {"x": ("a", "b")}
    assert match(twins, probe(x=A), ranges(a=(-4, 4), b=(-4, 9))) == {}


def test_equal_on_the_samples_and_other_beyond_them() -> None:
    usual, clipped = A.copy(), A.copy()
    usual[2], clipped[2] = 9 * A[2], np.clip(9 * A[2], -4, 4)
    bounds = ranges(a=(-4, 4))
    assert match(probe(a=usual[:2]), probe(x=clipped[:2]), bounds) == {"x": ("a",)}
    assert match(probe(a=usual), probe(x=clipped), bounds, usual=2) == {}
    assert match(probe(a=usual), probe(x=usual), bounds, usual=2) == {"x": ("a",)}


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_beyond_the_samples_a_tensor_may_say_nothing(value: float) -> None:
    full = A.copy()
    full[2] = value
    assert match(probe(a=full), probe(x=full), ranges(a=(-4, 4)), usual=2) == {"x": ("a",)}
    assert match(probe(a=full), probe(x=full), ranges(a=(-4, 4))) == {}


def test_an_all_zero_probe_matches_nothing() -> None:
    none = np.zeros_like(A)
    found = match(probe(a=none, b=none), probe(x=none, y=none), ranges(a=(0, 6), b=(0, 1)))
    assert found == {}


@given(
    hnp.arrays(np.float32, (1, 3, 4, 2), elements=st.floats(-8, 8, width=32)),
    st.permutations(range(4)),
)
def test_any_layout_matches(array: np.ndarray, perm: list[int]) -> None:
    found = match([{"a": array}], [{"x": array.transpose(perm)}], ranges(a=(-8, 8)))
    assert found == ({"x": ("a",)} if np.ptp(array) else {})


def test_the_probes_are_samples_and_one_input_beyond(tiny: Made) -> None:
    chosen = room.probes(tiny.kept)
    assert len(chosen) == room.PROBES + 1
    kept = [sample["image"] for sample in tiny.kept.batches(1, room.PROBES)]
    for sample, probed in zip(kept, chosen, strict=False):
        np.testing.assert_array_equal(sample, probed["image"])
    assert np.abs(chosen[-1]["image"]).max() > 2 * np.abs(kept[-1]).max()


# T4


def graph_of(*rows: tuple[str, str, str], **constants: float) -> TfliteGraph:
    """Return a graph of operators, each its kind, the names it is given, the name it makes."""
    held = {k: Tensor(k, data=np.full((), v, np.float32)) for k, v in constants.items()}
    ops = []
    for kind, read, made in rows:
        output = held.setdefault(made, Tensor(made))
        inputs = tuple(held.setdefault(name, Tensor(name)) for name in read.split())
        ops.append(Op(kind, inputs, (output,)))
    return TfliteGraph(
        tuple(ops), {}, outputs=tuple(held[name] for name in ("end",) if name in held)
    )


def padding(kind: str, value: float, *readers: str, low: float = 0.0) -> tuple[float, float] | None:
    """Return the range of a padded tensor whose input ranges from ``low`` to 4."""
    pad = (kind, "x sizes value" if kind == "PADV2" else "x sizes", "p")
    reading = [(reader, "p", f"r{i}") for i, reader in enumerate(readers)]
    bounds = {"x": (low, 4.0)}
    done = room._pad(graph_of(pad, *reading, value=value), bounds)
    assert done == (["p"] if "p" in bounds else [])
    return bounds.get("p")


def test_t4_padding_with_zero() -> None:
    assert padding("PAD", 0.0, "CONV_2D", low=1.0) == (0.0, 4.0)
    assert padding("PAD", 0.0, "CONV_2D", low=-1.0) == (-1.0, 4.0)


def test_t4_padding_with_a_value() -> None:
    assert padding("PADV2", 9.0, "CONV_2D") == (0.0, 9.0)
    assert padding("PADV2", -3.0, "CONV_2D") == (-3.0, 4.0)


@pytest.mark.parametrize("value", [-np.inf, -3.4e38, -1.0])
def test_t4_what_can_never_win_leaves_the_range_alone(value: float) -> None:
    assert padding("PADV2", value, "MAX_POOL_2D") == (0.0, 4.0)
    assert padding("PADV2", value, "MAX_POOL_2D", "MAX_POOL_2D") == (0.0, 4.0)


def test_t4_what_another_operator_sees_counts() -> None:
    assert padding("PADV2", -1.0, "MAX_POOL_2D", "CONV_2D") == (-1.0, 4.0)
    assert padding("PAD", 0.0, "MAX_POOL_2D", low=1.0) == (1.0, 4.0)
    assert padding("PADV2", 9.0, "MAX_POOL_2D") == (0.0, 9.0)


def test_t4_a_matched_output_keeps_its_twins_range() -> None:
    bounds = {"x": (1.0, 4.0), "p": (-7.0, 7.0)}
    assert room._pad(graph_of(("PAD", "x sizes", "p")), bounds) == []
    assert bounds["p"] == (-7.0, 7.0)


def test_t4_a_mirror_pads_with_values_that_are_there() -> None:
    assert padding("MIRROR_PAD", 0.0, "CONV_2D") is None


@pytest.mark.parametrize("clamp", ["RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1"])
def test_t4_what_only_a_clamp_reads_has_its_range(clamp: str) -> None:
    bounds = {"r": (0.0, 1.0)}
    graph = graph_of(("CONV_2D", "x w b", "p"), (clamp, "p", "r"))
    assert room._clamp(graph, bounds) == ["p"]
    assert bounds["p"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("reader", "made"), [(("CONV_2D", "p w b", "q"), "p"), (("RELU6", "x", "q"), "end")]
)
def test_t4_what_is_also_seen_unclamped_has_not(reader: tuple[str, str, str], made: str) -> None:
    bounds = {"r": (0.0, 6.0)}
    graph = graph_of(("CONV_2D", "x w b", made), ("RELU6", made, "r"), reader)
    assert room._clamp(graph, bounds) == []
    assert made not in bounds


# T5, and the whole of it on a real conversion


def carried(tiny: Made, base: Artifact, shared: Ranges) -> Transfer:
    """Carry ranges over to the converted network."""
    signature = Signature.from_json(json.loads((base.path / "signature.json").read_text()))
    return transfer(
        onnx.load(tiny.graph.path / "model.onnx"),
        base.path / "model.tflite",
        shared,
        tiny.kept,
        FileSession(signature, dict).prepare,
    )


def true_extremes(tiny: Made, base: Artifact) -> dict[str, tuple[float, float]]:
    """Return what the .tflite itself computes over the same samples."""
    file = base.path / "model.tflite"
    graph = read_graph(file)
    signature = Signature.from_json(json.loads((base.path / "signature.json").read_text()))
    prepare = FileSession(signature, dict).prepare
    values = room.activation_values(file, graph, map(prepare, Samples(tiny.kept.path).batches(1)))
    return extremes(values, set(graph.activations.values()))


def test_a_real_conversion_is_matched_to_the_last_tensor(tiny: Made, tiny_tflite: Artifact) -> None:
    found = carried(tiny, tiny_tflite, tiny.ranges)
    assert found.calibrated == ()
    assert found.facts == {"ranges_matched": 100.0, "ranges_calibrated": []}
    names = set(read_graph(tiny_tflite.path / "model.tflite").activations.values())
    assert set(found.bounds) == names == {*found.matched, *found.derived}
    assert all(
        found.bounds[name] == tiny.ranges.bounds[twins[0]] for name, twins in found.matched.items()
    )


def test_the_matches_are_true(tiny: Made, tiny_tflite: Artifact) -> None:
    found = carried(tiny, tiny_tflite, tiny.ranges)
    for name, (low, high) in true_extremes(tiny, tiny_tflite).items():
        if name in found.derived:
            continue  # an -inf, or a 0 that the range was joined with
        slack = 1e-3 * max(abs(low), abs(high))
        assert found.bounds[name] == pytest.approx((low, high), abs=slack), name


def test_a_max_pools_padding_has_steps_for_the_values(tiny: Made, tiny_tflite: Artifact) -> None:
    found = carried(tiny, tiny_tflite, tiny.ranges)
    pads = [op for op in read_graph(tiny_tflite.path / "model.tflite").ops if op.kind == "PADV2"]
    assert pads, "the converter pads a max pool with its own operator"
    for op in pads:
        assert found.bounds[op.outputs[0]] == found.bounds[op.inputs[0]]


def test_t5_what_is_left_is_calibrated_and_listed(tiny: Made, tiny_tflite: Artifact) -> None:
    full = carried(tiny, tiny_tflite, tiny.ranges)
    (pad,) = (op for op in read_graph(tiny_tflite.path / "model.tflite").ops if op.kind == "PADV2")
    (lost, *_) = full.matched[pad.inputs[0]]
    same = [n for n, pair in tiny.ranges.bounds.items() if pair == tiny.ranges.bounds[lost]]
    fewer = ranges(**{n: pair for n, pair in tiny.ranges.bounds.items() if n not in same})
    found = carried(tiny, tiny_tflite, fewer)
    assert pad.inputs[0] in found.calibrated
    assert pad.outputs[0] in found.calibrated, "its range is not the ONNX graph's either"
    assert set(found.bounds) == set(full.bounds)
    assert found.facts["ranges_matched"] < 100.0
    for name in found.calibrated:
        low, high = full.bounds[name]
        assert found.bounds[name] == pytest.approx((low, high), rel=1e-3, abs=1e-3), name
        assert np.isfinite(found.bounds[name]).all(), "an -inf would leave no steps"


def test_the_record_of_a_transfer_is_plain_data(tmp_path: Path) -> None:
    facts = Transfer({"a": (0, 1), "b": (0, 1), "c": (0, 1)}, {"a": ("x",)}, ("b",), ("c",)).facts
    assert facts == {"ranges_matched": 66.7, "ranges_calibrated": ["c"]}
    assert json.loads(json.dumps(facts)) == facts
