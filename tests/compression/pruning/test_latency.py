"""A budget in milliseconds: predicted, cut, measured, corrected."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests import nets
from torchopt2edge.compression.pruning.budget_target import Target, target_of
from torchopt2edge.compression.pruning.control import PruneControl
from torchopt2edge.compression.pruning.explain import explain
from torchopt2edge.compression.pruning.latency import to_latency
from torchopt2edge.compression.pruning.search import prepare
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.errors import ConfigError, PruneError
from torchopt2edge.interfaces import Profile
from torchopt2edge.models import count
from torchopt2edge.workflow.latency_meter import Meter

SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Rough:
    """A machine whose time grows less than its multiply-accumulates: predictions are too low."""

    rest: float = 1.0

    def profile(self, net: nn.Module, shape: tuple[int, ...], where: str) -> Profile:
        layers = count.layers(net, shape)
        total = sum(layer.macs for layer in layers.values())
        return Profile({n: 10.0 * layer.macs / total for n, layer in layers.items()}, self.rest)

    def measure(
        self, net: nn.Module, shape: tuple[int, ...], where: str
    ) -> tuple[float, float, float]:
        macs = count.macs(net, shape) / count.macs(nets.Residual(), shape)
        ms = self.rest + 10.0 * macs**0.7
        return ms, ms, ms


def search(**fields: object) -> object:
    return prepare(nets.lively(nets.Residual()), SHAPE, Prune(macs=0.5, round_to=1, **fields))  # type: ignore[arg-type]


def test_the_prediction_is_corrected_until_the_measurement_fits() -> None:
    found, tries = to_latency(search(), Target("latency_ms", 7.0, "ort-fp32"), Rough(), {})  # type: ignore[arg-type]
    assert tries[0].ms > 7.0  # as predicted it would have been too slow
    assert 0.95 * 7.0 <= tries[-1].ms <= 7.0
    assert found.plan.cuts


def test_a_net_that_is_fast_enough_stays_whole() -> None:
    found, tries = to_latency(search(), Target("latency_ms", 50.0, "ort-fp32"), Rough(), {})  # type: ignore[arg-type]
    assert not found.plan.cuts
    assert len(tries) == 1


def test_what_cannot_be_met_names_the_closest() -> None:
    with pytest.raises(PruneError, match=r"reaches .* ms, not 1\.2 ms, in ort-fp32"):
        to_latency(search(max_cut=0.5), Target("latency_ms", 1.2, "ort-fp32"), Rough(), {})  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_harness_measures_and_the_profile_names_the_layers() -> None:
    torch.manual_seed(0)
    net, meter = nets.lively(nets.Residual()), Meter(backends=("ort",))
    profile = meter.profile(net, SHAPE, "ort-fp32")
    assert set(profile.layers) == set(count.layers(net, SHAPE))
    whole = sum(profile.layers.values()) + profile.rest
    assert profile.layers["inner"] > profile.layers["head"]
    ms, low, high = meter.measure(net, SHAPE, "ort-fp32")
    assert low <= ms <= high
    assert 0.2 * ms < whole < 5 * ms
    table = str(explain(net, SHAPE, Prune(macs=0.5, round_to=1), meter))
    assert "predicted" in table
    goal = f"latency_ms:{0.8 * ms:.4f}@ort-fp32"
    control = PruneControl(Prune(target=goal, round_to=1), SHAPE, meter=meter)
    control.attach(net, None)
    assert control.facts()["macs_share"] < 1
    assert control.report["latency"]
    with pytest.raises(ConfigError, match="no backend 'litert'"):
        meter.measure(net, SHAPE, "litert-fp32")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"macs": 0.4}, Target("macs", 0.4)),
        ({"params": 0.3, "target": "macs:0.5"}, Target("params", 0.3)),
        ({"target": "params:0.4"}, Target("params", 0.4)),
        ({"target": "latency_ms: 12 @ort-int8"}, Target("latency_ms", 12.0, "ort-int8")),
        ({"ratios": {"a": 0.5}}, None),
    ],
)
def test_targets_in_words(fields: dict[str, object], wanted: Target | None) -> None:
    assert target_of(Prune(**fields)) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words", ["latency_ms:12", "macs:0.5@ort-int8", "speed:2", "macs:1.2", "macs:", "macs:1.2.3"]
)
def test_words_that_mean_nothing(words: str) -> None:
    with pytest.raises(ConfigError):
        target_of(Prune(target=words))
