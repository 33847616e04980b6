"""How a quantity grows with the steps of a training: what pruning and sparsity follow.

Standard library only. A schedule is a frozen dataclass; steps are optimizer steps that are done.
Where the length of the training is known, a step may be given as a float: its share (`timed`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torchopt2edge.errors import ConfigError


@runtime_checkable
class Schedule(Protocol):
    """When to act and how far to be: a share of what shall be gone at the end."""

    def amount(self, step: int, final: float) -> float:
        """Return what should be gone after ``step`` optimizer steps, ``final`` at the end."""

    def due(self, step: int) -> bool:
        """Whether the net is to be changed after ``step`` optimizer steps."""

    @property
    def last(self) -> float:
        """The step at which ``final`` is reached."""


@dataclass(frozen=True)
class OneShot:
    """Everything at once, after ``begin`` steps (0: before the first)."""

    begin: float = 0

    def __post_init__(self) -> None:
        if self.begin < 0:
            raise ConfigError(
                f"nothing happens at step {self.begin}", hint="begin=0, before the first step"
            )

    def amount(self, step: int, final: float) -> float:
        """Nothing before ``begin``, all of it from then on."""
        return final if step >= self.begin else 0.0

    def due(self, step: int) -> bool:
        """Only at ``begin``."""
        return step == self.begin

    @property
    def last(self) -> float:
        """The step at which all is gone."""
        return self.begin


@dataclass(frozen=True)
class Polynomial:
    """From ``initial`` at step ``begin`` to the final amount at step ``end``, fast at first.

    ``initial`` + (final - ``initial``) · (1 - (1 - t)^``power``) with t from 0 to 1: the cubic
    schedule of Zhu & Gupta 2017 ("To prune, or not to prune"), eq. 1. The net is changed every
    ``every`` steps, and at ``end``.
    """

    begin: float = 0
    end: float = 1000
    initial: float = 0.0
    power: float = 3.0
    every: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end or self.every < 1 or self.power <= 0:
            raise ConfigError(
                f"a schedule cannot run from step {self.begin} to {self.end}, "
                f"every {self.every}, to the power of {self.power}",
                hint="0 ≤ begin ≤ end, every of at least 1, a power above 0",
            )

    def amount(self, step: int, final: float) -> float:
        """Return ``initial`` at ``begin``, ``final`` from ``end`` on, nothing before."""
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return final
        start = min(self.initial, final)
        done = (step - self.begin) / (self.end - self.begin)
        return start + (final - start) * float(1 - (1 - done) ** self.power)

    def due(self, step: int) -> bool:
        """Every ``every`` steps from ``begin``, and at ``end``."""
        if not self.begin <= step <= self.end:
            return False
        return step == self.end or (step - self.begin) % self.every == 0

    @property
    def last(self) -> float:
        """The step at which the final amount is reached."""
        return self.end


@dataclass(frozen=True)
class Linear(Polynomial):
    """From ``initial`` at step ``begin`` to the final amount at step ``end``, evenly."""

    power: float = 1.0


@dataclass(frozen=True)
class Iterative:
    """``rounds`` equal parts, the first after ``begin`` steps, ``between`` steps of training apart.

    Cut, train, cut again (Han et al. 2015, "Learning both Weights and Connections").
    """

    rounds: int = 4
    between: float = 200
    begin: float = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.between <= 0 or self.begin < 0:
            raise ConfigError(
                f"{self.rounds} rounds, {self.between} steps apart from step {self.begin} on, "
                "are no schedule",
                hint="at least one round, at least one step between, begin of at least 0",
            )

    def amount(self, step: int, final: float) -> float:
        """Return the parts that are due by ``step``."""
        if step < self.begin:
            return 0.0
        return final * min(self.rounds, int((step - self.begin) // self.between) + 1) / self.rounds

    def due(self, step: int) -> bool:
        """At the beginning of each round."""
        return self.begin <= step <= self.last and (step - self.begin) % self.between == 0

    @property
    def last(self) -> float:
        """The step of the last round."""
        return self.begin + (self.rounds - 1) * self.between


def timed(schedule: Any, steps: int) -> Any:
    """Return the schedule with its shares of a training of ``steps`` steps turned into steps.

    A float is a share (``end=0.5``), an int a step. Anything that is not ours stays as it is.

    Raises:
        ConfigError: a share beyond 1, or an end that the training does not reach.
    """
    if not isinstance(schedule, OneShot | Polynomial | Iterative):
        return schedule
    given = {name: getattr(schedule, name, 0) for name in ("begin", "end", "between")}
    shares = {name: value for name, value in given.items() if isinstance(value, float)}
    wrong = {name: value for name, value in shares.items() if not 0 <= value <= 1}
    if wrong:
        raise ConfigError(
            f"a share of the training cannot be {wrong}", hint="0.0 to 1.0, or a whole step"
        )
    least = {"begin": 0, "end": 0, "between": 1}
    exact = {name: max(least[name], round(value * steps)) for name, value in shares.items()}
    made: Any = replace(schedule, **exact)  # type: ignore[arg-type]
    if made.last > steps:
        raise ConfigError(
            f"the schedule ends at step {made.last:g}, the training at step {steps}",
            hint=f"an end of at most {steps}, or a share such as 0.5",
        )
    return made
