"""Choose among several ways to find the ranges, by what they do to the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.fake_quant import Simulation
from torchopt2edge.quantize.histogram import OBSERVERS
from torchopt2edge.types import Ranges

TIE_DB = 0.1


@dataclass(frozen=True)
class Choice:
    """Whose ranges were chosen, what each was measured at (dB), and a sentence that says why."""

    name: str
    sqnr_db: dict[str, float]
    why: str


def choose(sim: Simulation, candidates: Mapping[str, Ranges]) -> Choice:
    """Return the candidate with the greatest SQNR on the simulation's calibration samples.

    Of those within 0.1 dB of the best the simplest wins, in the order of `OBSERVERS`: a
    difference that small is another one on other samples.

    Raises:
        ConfigError: there are no candidates.
    """
    if not candidates:
        raise ConfigError("there are no ranges to choose from")
    found = {name: sim.sqnr(ranges) for name, ranges in candidates.items()}
    best = max(found.values())
    name = min((name for name in found if found[name] >= best - TIE_DB), key=_place)
    return Choice(name, found, _why(name, found, sim.count))


def _place(name: str) -> int:
    return OBSERVERS.index(name) if name in OBSERVERS else len(OBSERVERS)


def _why(name: str, found: Mapping[str, float], count: int) -> str:
    """Say what was measured, and against whom it won or with whom it is as good as equal."""
    measured = f"{name} keeps {found[name]:.1f} dB SQNR at the output on {count} samples"
    others = {other: value for other, value in found.items() if other != name}
    if not others:
        return f"{measured}; nothing else was tried"
    second = max(others, key=others.__getitem__)
    if abs(others[second] - found[name]) <= TIE_DB:
        return f"{measured}, {second} as good as the same; the simpler of equals is taken"
    return f"{measured}, {found[name] - others[second]:.1f} dB more than {second}, the next best"
