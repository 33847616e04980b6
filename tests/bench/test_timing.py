"""The presets, and what no protocol may be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torchopt2edge.bench.timing import TimingPlan, by_name
from torchopt2edge.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "samples", "seconds", "rounds"),
    [("smoke", 1, 0.3, 5), ("quick", 128, 10.0, 10), ("standard", 1024, 60.0, 30)],
)
def test_presets_keep_their_promise(name: str, samples: int, seconds: float, rounds: int) -> None:
    found = by_name(name)
    found.check()
    assert found.name == name
    assert found.min_samples >= samples
    assert found.min_seconds >= seconds
    assert found.rounds >= rounds
    assert found.round_samples * found.rounds >= found.min_samples
    assert found.round_seconds * found.rounds == pytest.approx(found.min_seconds)
    assert found.round_max_samples >= found.round_samples


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="one of quick, smoke, standard"):
        by_name("fast")


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 4},
        {"min_samples": 0},
        {"min_seconds": -1.0},
        {"warmup_max_s": -1.0},
        {"cooldown_s": -0.1},
        {"timeout_s": 0.0},
    ],
)
def test_a_plan_that_cannot_work_is_refused(brief: TimingPlan, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(brief, **change).check()
