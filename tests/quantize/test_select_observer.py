"""The choice of ranges: on outliers, on a tie, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from tests.quantize.graphs import floats
from tests.quantize.simulated import inferred, ranges_of, samples_of
from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.fake_quant import Simulation, simulation
from torchopt2edge.quantize.select_observer import ObserverChoice, select_observer
from torchopt2edge.types import Ranges

NET = """(float[n,3,16,16] x) => (float[n,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, v) s = Relu(b)
    p = GlobalAveragePool(s) f = Flatten(p) y = Gemm(f, g)
}"""
W = {"w": floats(4, 3, 3, 3, seed=1), "v": floats(4, 4, 3, 3, seed=2), "g": floats(4, 5, seed=3)}


def planted(
    tmp_path: Path, peak: float, part: float = 99.9
) -> tuple[Simulation, dict[str, Ranges]]:
    """Return a net on 24 samples, in two of which one value is ``peak``; and ranges for it."""
    x = floats(24, 3, 16, 16)
    for sample in (3, 17):
        x[sample, 1, 5, 5] = peak
    file = inferred(NET, W, tmp_path / "net.onnx")
    sim = simulation(onnx.load(file), samples_of({"x": x}, tmp_path / "samples"))
    parts = {"minmax": 100.0, "percentile": part}
    return sim, {name: ranges_of(file, {"x": x}, held) for name, held in parts.items()}


def test_outliers_in_a_few_samples_do_not_rule_the_others(tmp_path: Path) -> None:
    sim, candidates = planted(tmp_path, 400.0)
    choice = select_observer(sim, candidates)
    assert choice.name == "percentile"
    assert choice.sqnr_db["percentile"] > choice.sqnr_db["minmax"] + 10
    assert choice.sqnr_db == {name: sim.sqnr(ranges) for name, ranges in candidates.items()}


def test_what_is_no_outlier_is_not_cut_off(tmp_path: Path) -> None:
    sim, candidates = planted(tmp_path, 1.0, part=95.0)
    assert select_observer(sim, candidates).name == "minmax"


def test_of_equals_the_simplest(tmp_path: Path) -> None:
    sim, found = planted(tmp_path, 1.0)
    same = found["minmax"]
    bounds = {name: (low, high * (1 + 1e-6)) for name, (low, high) in same.bounds.items()}
    near = replace(same, bounds=bounds)
    for candidates in (
        {"entropy": near, "mse": same, "minmax": near},
        {"minmax": same, "mse": near, "entropy": same},
    ):
        choice = select_observer(sim, candidates)
        values = choice.sqnr_db.values()
        assert 0 < max(values) - min(values) < 0.1
        assert choice.name == "minmax"
        assert "the simpler of equals" in choice.why
    assert select_observer(sim, {"unheard of": near, "entropy": same}).name == "entropy"


def test_it_says_why(tmp_path: Path) -> None:
    sim, candidates = planted(tmp_path, 400.0)
    choice = select_observer(sim, candidates)
    best, other = choice.sqnr_db["percentile"], choice.sqnr_db["minmax"]
    assert choice.why == (
        f"percentile keeps {best:.1f} dB SQNR at the output on 24 samples, "
        f"{best - other:.1f} dB more than minmax, the next best"
    )
    alone = select_observer(sim, {"mse": candidates["minmax"]})
    assert alone == ObserverChoice("mse", {"mse": other}, alone.why)
    assert alone.why.endswith("no other observer was tried")


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    sim, _ = planted(tmp_path, 1.0)
    with pytest.raises(ConfigError, match="no ranges to choose from"):
        select_observer(sim, {})
