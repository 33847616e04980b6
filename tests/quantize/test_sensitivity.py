"""The ranking finds the op that was planted to be bad, whatever makes it so."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.hub import Made
from tests.quantize.graphs import Arrays, floats
from tests.quantize.simulated import inferred, ranges_of, samples_of
from torchopt2edge.quantize.fake_quant import Simulation, simulation
from torchopt2edge.quantize.graph.macs import macs_of
from torchopt2edge.quantize.sensitivity import Sensitivity, rank
from torchopt2edge.stats.sqnr import SAMPLE_LIMITS_DB
from torchopt2edge.types import Ranges

NET = """(float[n,4,8,8] x) => (float[n,4,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, wa) ra = Relu(a)
    b = Conv<pads=[1,1,1,1]>(ra, wb) rb = Relu(b)
    c = Conv<pads=[1,1,1,1]>(rb, wc) rc = Relu(c)
    y = Conv<pads=[1,1,1,1]>(rc, wd)
}"""
X = {"x": floats(8, 4, 8, 8)}


def weights() -> Arrays:
    """Return the weights of four convolutions, none of them bad."""
    names = ("wa", "wb", "wc", "wd")
    return {name: floats(4, 4, 3, 3, seed=seed) for seed, name in enumerate(names)}


def simulated(held: Arrays, folder: Path) -> tuple[Simulation, Ranges, dict[str, int]]:
    """Return the simulation of the network with these weights, its ranges and its MACs."""
    folder.mkdir(exist_ok=True)
    file = inferred(NET, held, folder / "net.onnx")
    sim = simulation(onnx.load(file), samples_of(X, folder / "samples"))
    return sim, ranges_of(file, X), macs_of(onnx.load(file))


def test_weights_that_8_bits_cannot_hold(tmp_path: Path) -> None:
    held = weights()
    held["wa"][0] = 0.0
    held["wb"][:, 0] *= 100.0  # they meet nothing but zeros, and leave the rest few steps
    sim, ranges, macs = simulated(held, tmp_path)
    ranking = rank(sim, ranges, macs)
    worst = ranking[0]
    assert (worst.op, worst.op_type, worst.macs) == ("node_b", "Conv", 8 * 8 * 4 * 4 * 9)
    assert worst.only_db == sim.sqnr(ranges, [op for op in sim.ops if op != "node_b"])
    assert worst.without_db == sim.sqnr(ranges, ["node_b"])
    assert worst.all_db == sim.sqnr(ranges)


def test_a_tensor_that_8_bits_cannot_hold_blames_who_makes_and_who_reads_it(
    tmp_path: Path,
) -> None:
    held = weights()
    held["wc"][0] *= 1000.0  # one channel sets the range of all
    held["wd"][:, 0] /= 1000.0  # and the next layer wants the others as much
    sim, ranges, macs = simulated(held, tmp_path)
    ranking = rank(sim, ranges, macs)
    assert {one.op for one in ranking[:2]} == {"node_c", "node_y"}
    assert max(one.without_db - one.all_db for one in ranking) < 3, "one of the two is not enough"
    pair = [one.op for one in ranking[:2]]
    assert sim.sqnr(ranges, pair) > ranking[0].all_db + 10


def test_progress_and_what_is_left_out(tmp_path: Path) -> None:
    sim, ranges, macs = simulated(weights(), tmp_path)
    told: list[tuple[int, int]] = []
    excluded = Ranges(ranges.bounds, ranges.origin, ranges.manifest, ("node_a",))
    ranking = rank(sim, excluded, {}, lambda done, total: told.append((done, total)))
    assert told == [(at, 7) for at in range(1, 8)]
    assert {one.op for one in ranking} == {"node_b", "node_c", "node_y"}
    assert all(one.macs == 0 for one in ranking)
    assert set(macs) == set(sim.ops)


def test_a_long_net_is_ranked_in_blocks(tmp_path: Path) -> None:
    sim, ranges, macs = simulated(weights(), tmp_path)
    ranking = rank(sim, ranges, macs, most=2)
    assert {one.members for one in ranking} == {("node_a", "node_b"), ("node_c", "node_y")}
    block = next(one for one in ranking if "node_a" in one.members)
    assert block.op == "node_a … node_b"
    assert block.macs == macs["node_a"] + macs["node_b"]
    assert block.without_db == sim.sqnr(ranges, block.members)
    assert block.only_db == sim.sqnr(ranges, ["node_c", "node_y"])


def test_a_real_network(tiny: Made) -> None:
    file = tiny.graph.path / "model.onnx"
    sim = simulation(onnx.load(file), tiny.kept, 8)
    ranking = rank(sim, tiny.ranges, macs_of(onnx.load(file)))
    assert sorted(one.op for one in ranking) == sorted(sim.ops)
    assert all(one.only_db > one.all_db for one in ranking)
    assert [one.noise for one in ranking] == sorted((one.noise for one in ranking), reverse=True)


def test_noise_is_power() -> None:
    one = Sensitivity("a", "Conv", 1, 20.0, 30.0, 10.0, ("a",))
    assert one.noise == pytest.approx(0.1 - 0.001 + 0.01)
    harmful = Sensitivity("a", "Conv", 1, SAMPLE_LIMITS_DB[1], 9.0, 10.0, ("a",))
    assert harmful.noise == pytest.approx(0.0, abs=1e-9), "in float it would make things worse"


def test_the_record_is_plain_data() -> None:
    one = Sensitivity("a … b", "Conv", 12, 20.0, 30.0, 10.0, ("a", "b"))
    assert Sensitivity.from_json(json.loads(json.dumps(one.to_json()))) == one
