"""What quantizing each op costs at the output: the ranking behind mixed precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from torchopt2edge.quantize.fake_quant import Simulation
from torchopt2edge.types import Ranges

MOST = 150  # ops ranked one by one; a longer net is ranked in blocks of neighbours


@dataclass(frozen=True)
class Sensitivity:
    """One op, or one block of ops, that could stay in float.

    ``macs`` are its multiply-accumulates at batch 1. In dB of SQNR at the output: ``only_db``
    when it alone is quantized, ``without_db`` when all but it are, ``all_db`` when everything is.
    ``members`` are the ops' names: several for a block, whose ``op`` is "first … last".
    """

    op: str
    op_type: str
    macs: int
    only_db: float
    without_db: float
    all_db: float
    members: tuple[str, ...]

    @property
    def noise(self) -> float:
        """The noise that is its doing, in units of the signal's power.

        What goes when it stays in float, and what it makes alone. The first does not see a tensor
        that its maker and its reader both round, the second sees it in both of them.
        """
        gone = _power(self.all_db) - _power(self.without_db)
        return max(gone, 0.0) + _power(self.only_db)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as a report keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Read what ``to_json`` wrote."""
        return cls(**{**data, "members": tuple(data["members"])})


def rank(
    sim: Simulation,
    ranges: Ranges,
    macs: Mapping[str, int],
    tick: Callable[[int, int], None] | None = None,
    most: int = MOST,
) -> list[Sensitivity]:
    """Measure every op by 2N + 1 runs over the simulation's samples; return the worst first.

    Worst is who makes most of the noise (`Sensitivity.noise`). ``macs`` is by node name; what
    is absent has none. Ops that the ranges exclude are not ranked.
    ``tick`` is told (done, total) after each run. More than ``most`` ops are ranked in ``most``
    blocks of neighbours.

    Raises:
        DataError: as `Simulation.sqnr`.
    """
    ops = [op for op in sim.ops if op not in ranges.excluded]
    blocks = _blocks(ops, most)
    total, runs = 2 * len(blocks) + 1, 0

    def sqnr(floating: Sequence[str]) -> float:
        nonlocal runs
        found, runs = sim.sqnr(ranges, floating), runs + 1
        if tick is not None:
            tick(runs, total)
        return found

    everything = sqnr(())
    ranking = [
        Sensitivity(
            block[0] if len(block) == 1 else f"{block[0]} … {block[-1]}",
            Counter(sim.circuit.plan.ops[op] for op in block).most_common(1)[0][0],
            sum(macs.get(op, 0) for op in block),
            sqnr([op for op in ops if op not in block]),
            sqnr(block),
            everything,
            block,
        )
        for block in blocks
    ]
    return sorted(ranking, key=lambda one: -one.noise)


def _power(sqnr_db: float) -> float:
    return float(10 ** (-sqnr_db / 10))


def _blocks(ops: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Cut the ops into at most ``most`` runs of neighbours, as equal in length as can be."""
    count = min(len(ops), most)
    cuts = [len(ops) * at // count for at in range(count + 1)] if count else []
    return [tuple(ops[start:stop]) for start, stop in pairwise(cuts)]
