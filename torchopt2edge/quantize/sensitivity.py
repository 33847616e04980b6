"""Rank the operators by what quantizing each of them costs at the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from torchopt2edge.quantize.fake_quant import Simulation
from torchopt2edge.types import Ranges

MOST = 150  # operators ranked singly; a longer net is ranked in blocks of neighbours


@dataclass(frozen=True)
class Sensitivity:
    """One operator, or one block of operators, that could stay in float.

    Attributes:
        op: its name; "first … last" for a block.
        op_type: its type, the most frequent one for a block.
        macs: its multiply-accumulates at batch 1.
        only_db: the SQNR at the output in dB when it alone is quantized.
        without_db: the SQNR when all but it are quantized.
        all_db: the SQNR when everything is quantized.
        members: the names of its operators, several for a block.
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
        """The noise that it causes, relative to the signal's power.

        The sum of what is saved when it stays in float and what it causes alone. The first misses a
        tensor that its writer and its reader both round, the second counts it for both of them.
        """
        saved = _noise_power(self.all_db) - _noise_power(self.without_db)
        return max(saved, 0.0) + _noise_power(self.only_db)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as in ``decision.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Return what ``to_json`` wrote."""
        return cls(**{**data, "members": tuple(data["members"])})


def rank(
    simulation: Simulation,
    ranges: Ranges,
    macs: Mapping[str, int],
    tick: Callable[[int, int], None] | None = None,
    most: int = MOST,
) -> list[Sensitivity]:
    """Measure every operator by 2N + 1 runs over the simulation's samples.

    Args:
        simulation: the graph and the samples.
        ranges: the ranges; operators that they exclude are not ranked.
        macs: multiply-accumulates by node name; a node that is absent has none.
        tick: called with (done, total) after each run.
        most: more operators than this are ranked in so many blocks of neighbours.

    Returns:
        The operators, those that cause the most noise first (`Sensitivity.noise`).

    Raises:
        DataError: the ranges lack a tensor that is to be rounded.
    """
    ops = [op for op in simulation.ops if op not in ranges.excluded]
    blocks = _blocks(ops, most)
    total, runs = 2 * len(blocks) + 1, 0

    def sqnr(floating: Sequence[str]) -> float:
        nonlocal runs
        value, runs = simulation.sqnr(ranges, floating), runs + 1
        if tick is not None:
            tick(runs, total)
        return value

    everything, op_types = sqnr(()), simulation.graph.tensors.ops
    ranking = [
        Sensitivity(
            block[0] if len(block) == 1 else f"{block[0]} … {block[-1]}",
            Counter(op_types[op] for op in block).most_common(1)[0][0],
            sum(macs.get(op, 0) for op in block),
            sqnr([op for op in ops if op not in block]),
            sqnr(block),
            everything,
            block,
        )
        for block in blocks
    ]
    return sorted(ranking, key=lambda row: -row.noise)


def _noise_power(sqnr_db: float) -> float:
    return float(10 ** (-sqnr_db / 10))


def _blocks(ops: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Cut the operators into at most ``most`` runs of neighbours of equal length, ± 1."""
    count = min(len(ops), most)
    cuts = [len(ops) * at // count for at in range(count + 1)] if count else []
    return [tuple(ops[start:stop]) for start, stop in pairwise(cuts)]
