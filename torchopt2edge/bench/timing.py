"""How long and how often a candidate is timed: four presets, whose values live in conf/."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchopt2edge._moved import names_of
from torchopt2edge.conf import registry
from torchopt2edge.errors import ConfigError
from torchopt2edge.stats.rounds import LEAST_ROUNDS

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__)


@dataclass(frozen=True)
class TimingPlan:
    """A measuring plan; seconds and samples are totals per candidate, over all its rounds.

    A candidate is timed for at least ``min_samples`` inferences and ``min_seconds`` seconds,
    cut into ``rounds`` rounds taken in turns; ``max_samples`` bounds a very fast model (and wins
    over ``min_seconds``). Warm-up lasts until round medians are flat, at most ``warmup_max_s``.
    Between rounds a device with a thermometer may cool down to its starting temperature for at
    most ``cooldown_s``; one without waits ``rest_s``. Without ``turns`` every candidate runs all
    its rounds before the next one begins, which shows what heat does to each; the gate is then
    between candidates, and the first one is timed again there, so that a drift of the machine
    shows. ``prime`` opens one throw-away process per runtime first, so that the
    first candidate does not pay alone for a cold page cache. ``timeout_s`` is the patience for
    one answer on top of the time that it is expected to take.
    """

    name: str
    min_samples: int
    min_seconds: float
    rounds: int
    warmup_max_s: float
    cooldown_s: float
    rest_s: float = 0.0
    turns: bool = True
    seed: int = 0
    max_samples: int = 1_000_000
    prime: bool = True
    timeout_s: float = 120.0

    @property
    def round_samples(self) -> int:
        """The least number of inferences in one round."""
        return math.ceil(self.min_samples / self.rounds)

    @property
    def round_seconds(self) -> float:
        """The least duration of one round."""
        return self.min_seconds / self.rounds

    @property
    def round_max_samples(self) -> int:
        """The greatest number of inferences in one round."""
        return max(self.round_samples, self.max_samples // self.rounds)

    def check(self) -> None:
        """Refuse a plan that cannot give an interval.

        Raises:
            ConfigError: too few rounds or samples, or a negative time.
        """
        if self.rounds < LEAST_ROUNDS:
            raise ConfigError(
                f"{self.rounds} rounds cannot carry an interval",
                hint=f"timing.rounds={LEAST_ROUNDS} or more",
            )
        times = (self.min_seconds, self.warmup_max_s, self.cooldown_s, self.rest_s)
        if self.min_samples < 1 or min(times) < 0 or self.timeout_s <= 0:
            raise ConfigError(
                "a timing plan needs one sample or more, and no negative time",
                artifact=self.name,
            )


def by_name(name: str) -> TimingPlan:
    """Return the preset of that name from ``conf/timing/<name>.yaml``.

    Raises:
        ConfigError: there is none.
    """
    made: TimingPlan = registry.build("timing", name)
    return made
