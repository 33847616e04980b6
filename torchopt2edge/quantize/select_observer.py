"""Select the observer whose ranges change the outputs least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.fake_quant import Simulation
from torchopt2edge.quantize.histogram import OBSERVERS
from torchopt2edge.types import Ranges

TIE_DB = 0.1


@dataclass(frozen=True)
class ObserverChoice:
    """The selected observer.

    Attributes:
        name: the observer.
        sqnr_db: the SQNR of every observer, in dB.
        why: a sentence that gives the reason.
    """

    name: str
    sqnr_db: dict[str, float]
    why: str


def select_observer(simulation: Simulation, candidates: Mapping[str, Ranges]) -> ObserverChoice:
    """Return the observer whose ranges have the highest SQNR on the simulation's samples.

    Of those within 0.1 dB of the best the simplest is taken, in the order of `OBSERVERS`: other
    samples would change so small a difference.

    Args:
        simulation: the graph and the calibration samples.
        candidates: the ranges of each observer.

    Raises:
        ConfigError: there are no candidates.
    """
    if not candidates:
        raise ConfigError("there are no ranges to choose from")
    sqnr_db = {name: simulation.sqnr(ranges) for name, ranges in candidates.items()}
    best = max(sqnr_db.values())
    name = min((name for name in sqnr_db if sqnr_db[name] >= best - TIE_DB), key=_complexity)
    return ObserverChoice(name, sqnr_db, _why(name, sqnr_db, simulation.count))


def _complexity(name: str) -> int:
    return OBSERVERS.index(name) if name in OBSERVERS else len(OBSERVERS)


def _why(name: str, sqnr_db: Mapping[str, float], count: int) -> str:
    """Return what was measured, and how far the next best observer is."""
    measured = f"{name} keeps {sqnr_db[name]:.1f} dB SQNR at the output on {count} samples"
    others = {other: value for other, value in sqnr_db.items() if other != name}
    if not others:
        return f"{measured}; no other observer was tried"
    second = max(others, key=others.__getitem__)
    if abs(others[second] - sqnr_db[name]) <= TIE_DB:
        return f"{measured}, as many as {second}; the simpler of equals is taken"
    return f"{measured}, {sqnr_db[name] - others[second]:.1f} dB more than {second}, the next best"
