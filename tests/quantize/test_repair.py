"""int8 that repairs itself: what is left in float, within which budget, and never for the worse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quantize.graphs import floats, graph, kept, saved
from torchopt2edge.quantize.calibrate import calibrate
from torchopt2edge.quantize.decide import decide
from torchopt2edge.quantize.fake_quant import simulation
from torchopt2edge.quantize.graph.macs import macs_of
from torchopt2edge.quantize.graph.prepare import prepared
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.quantize.repair import repair
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

LATE = """(float[n,3,12,12] x) => (float[n,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Mul(b, s) d = Add(c, t)
    e = Conv<pads=[1,1,1,1]>(d, v) f = Relu(e) g = GlobalAveragePool(f) y = Flatten(g) }"""


def late_norm(seed: int, spread: float = 4.0) -> onnx.ModelProto:
    """Return a net whose norm behind a ReLU scales its channels far apart.

    The convolution behind it takes the scales back, so that every channel counts alike.
    """
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.uniform(-spread, spread, 8)).astype(np.float32)
    proto = graph(
        LATE,
        {
            "w": floats(8, 3, 3, 3, seed=seed),
            "s": scale.reshape(1, 8, 1, 1),
            "t": np.zeros((1, 8, 1, 1), np.float32) + scale.reshape(1, 8, 1, 1) / 4,
            "v": floats(8, 8, 3, 3, seed=seed + 1) / scale.reshape(1, 8, 1, 1),
        },
    )
    for node in proto.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return prepared(proto, Path("late.onnx"))


def samples(folder: Path, seed: int = 9) -> Samples:
    """Return samples for the net."""
    return kept({"x": floats(16, 3, 12, 12, seed=seed)}, folder)


def decided(proto: onnx.ModelProto, tmp_path: Path, **options: object) -> tuple[dict, Ranges]:
    """Decide and return the facts and the ranges."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    file = saved(proto, tmp_path / "net.onnx")
    facts = decide(file, samples(tmp_path / "samples"), Quantize(**options), out)
    return facts, Ranges.from_json(json.loads((out / "ranges.json").read_text()))


def test_the_late_norm_stays_in_float(tmp_path: Path) -> None:
    proto = late_norm(0)
    without, _ = decided(proto, tmp_path, repair=False, equalize=False, bias_correction=False)
    facts, ranges = decided(proto, tmp_path, repair_macs=0)
    assert without["sqnr_db"] < 20
    assert {"Mul", "Add"} & set(facts["repair"]["op_types"])
    assert facts["sqnr_db"] > without["sqnr_db"] + 3
    assert set(facts["repair"]["excluded"]) <= set(ranges.excluded)
    assert facts["repair"]["macs_float_share"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_no_step_makes_it_worse(seed: int, tmp_path: Path) -> None:
    proto = late_norm(seed, spread=seed * 0.8)
    plain, _ = decided(proto, tmp_path, repair=False, equalize=False, bias_correction=False)
    tuned, _ = decided(proto, tmp_path, repair=False)
    whole, ranges = decided(proto, tmp_path)
    assert whole["sqnr_db"] >= max(plain["sqnr_db"], tuned["sqnr_db"]) - 1e-6
    file = tmp_path / "out" / "model.onnx"
    final = onnx.load(file) if file.is_file() else proto
    judged = simulation(final, samples(tmp_path / "again"), reference=proto).sqnr(ranges)
    assert judged == pytest.approx(whole["sqnr_db"], abs=0.05), "the figure of the final state"


@pytest.mark.parametrize("budget", [0.0, 30.0, 100.0])
def test_the_budget_holds(budget: float, tmp_path: Path) -> None:
    proto, taken = late_norm(1), samples(tmp_path / "samples")
    ranges = calibrate(proto, taken, ("minmax",))["minmax"]
    macs = macs_of(proto)
    made = repair(simulation(proto, taken), ranges, macs, 60.0, budget)
    share = 100 * sum(macs.get(op, 0) for op in made.excluded) / sum(macs.values())
    assert share == pytest.approx(made.macs_share)
    assert share <= budget
    assert made.after_db >= made.before_db


def test_a_net_that_needs_nothing_gets_nothing(tmp_path: Path) -> None:
    facts, ranges = decided(late_norm(0, spread=0.0), tmp_path)
    assert facts["sqnr_db"] > 20
    assert "repair" not in facts
    assert ranges.excluded == ()
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_what_is_named_by_hand_comes_first(tmp_path: Path) -> None:
    proto = late_norm(0)
    facts, ranges = decided(proto, tmp_path, exclude=("Mul_c", "Add_d"), repair=False)
    assert ranges.excluded == ("Mul_c", "Add_d")
    bare, _ = decided(proto, tmp_path, repair=False, equalize=False, bias_correction=False)
    assert facts["sqnr_db"] > bare["sqnr_db"]
