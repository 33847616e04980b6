"""Leave in float the few operators that cost int8 its accuracy, where the simulation finds it poor.

R1. Suspects are the operators that alone, with all others in float, keep less than is wanted. They
    are found by halving: a block of neighbours that keeps enough holds none. Those that keep least
    come first. Those whose multiply-accumulates would exceed the budget are passed over: late
    norms, gates, the tail that decodes boxes, the first and the last layer cost much and weigh
    little.
R2. Prefixes of that order, of 1, 2, 4 … operators, are left in float until the SQNR is no longer
    poor. The best is taken.
R3. Members that are not needed are put back: halves of the prefix, then halves of those, while the
    SQNR stays within `SLACK_DB`.
R4. The result is kept when it raises the SQNR by `GAIN_DB` or more.

An operator in float costs a conversion on either side of it, so fewer are better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torchopt2edge.quantize.fake_quant import Simulation
from torchopt2edge.types import Facts, Ranges

GAIN_DB = 0.5
SLACK_DB = 0.3
MARGIN_DB = 3.0  # a block that keeps so much more than is wanted holds no suspect
BLOCKS, MOST_RUNS = 16, 96
MOST_OPERATORS = 64
Ops = tuple[str, ...]


@dataclass(frozen=True)
class Repair:
    """Operators to leave in float, and what that brings on the simulation's samples.

    Attributes:
        excluded: their names, in the graph's order; () when nothing pays.
        before_db: the SQNR at the worst output with none of them in float.
        after_db: the SQNR with all of them in float.
        macs_share: their multiply-accumulates, in per cent of the net's.
        op_types: their types, without repetition.
    """

    excluded: Ops
    before_db: float
    after_db: float
    macs_share: float
    op_types: Ops

    @property
    def facts(self) -> Facts:
        """What the decision says of it."""
        return {
            "excluded": list(self.excluded),
            "op_types": list(self.op_types),
            "before_db": round(self.before_db, 2),
            "after_db": round(self.after_db, 2),
            "macs_float_share": round(self.macs_share, 3),
        }


def repair(
    simulation: Simulation,
    ranges: Ranges,
    macs: Mapping[str, int],
    wanted_db: float,
    budget: float,
) -> Repair:
    """Find the operators to leave in float (R1 to R4).

    Args:
        simulation: the graph and the samples that judge.
        ranges: the ranges; what they exclude is in float already.
        macs: multiply-accumulates by node name.
        wanted_db: the SQNR from which on nothing more is done.
        budget: the largest share of the multiply-accumulates to leave in float, in per cent.

    Raises:
        DataError: the ranges lack a tensor that is to be rounded.
    """
    alone = _suspects(simulation, ranges, wanted_db)
    order = _affordable(sorted(alone, key=alone.__getitem__), macs, budget)
    measured: dict[Ops, float] = {}

    def sqnr(excluded: Sequence[str]) -> float:
        key = tuple(sorted(excluded))
        if key not in measured:
            measured[key] = simulation.sqnr(ranges, key)
        return measured[key]

    before = sqnr(())
    best = _grown(order, sqnr, wanted_db)
    if sqnr(best) < before + GAIN_DB:
        return Repair((), before, before, 0.0, ())
    kept = set(_thinned(best, sqnr, min(sqnr(best), wanted_db) - SLACK_DB))
    op_types = simulation.graph.tensors.ops
    names = tuple(op for op in simulation.ops if op in kept)
    share = 100.0 * sum(macs.get(op, 0) for op in names) / max(1, sum(macs.values()))
    types = tuple(dict.fromkeys(op_types[op] for op in names))
    return Repair(names, before, sqnr(names), share, types)


def _suspects(simulation: Simulation, ranges: Ranges, wanted_db: float) -> dict[str, float]:
    """R1: return the SQNR of each suspect when it alone is quantized."""
    ops = [op for op in simulation.ops if op not in ranges.excluded]
    found: dict[str, float] = {}
    size = max(1, -(-len(ops) // BLOCKS))
    blocks = [ops[at : at + size] for at in range(0, len(ops), size)]
    for _ in range(MOST_RUNS):  # a net that is bad everywhere has no few suspects
        if not blocks:
            break
        block = blocks.pop()
        inside = set(block)
        kept = simulation.sqnr(ranges, [op for op in ops if op not in inside])
        if kept >= wanted_db + MARGIN_DB:
            continue
        if len(block) == 1:
            found[block[0]] = kept
            continue
        middle = len(block) // 2
        blocks += [block[:middle], block[middle:]]
    return found


def _affordable(ordered: Sequence[str], macs: Mapping[str, int], budget: float) -> Ops:
    """R1: the operators in order, less those with which the budget would be exceeded."""
    left = budget / 100.0 * sum(macs.values())
    order: list[str] = []
    for op in ordered:
        cost = macs.get(op, 0)
        if cost <= left:
            left -= cost
            order.append(op)
    return tuple(order[:MOST_OPERATORS])


def _grown(order: Ops, sqnr: Callable[[Sequence[str]], float], wanted_db: float) -> Ops:
    """R2."""
    best: Ops = ()
    size = 1
    while best != order and size < 2 * len(order):
        prefix = order[:size]
        if sqnr(prefix) > sqnr(best):
            best = prefix
        if sqnr(best) >= wanted_db:
            break
        size *= 2
    return best


def _thinned(ops: Ops, sqnr: Callable[[Sequence[str]], float], floor_db: float) -> Ops:
    """R3: from the end, where those stand that cause the least noise."""
    kept, size = list(ops), max(1, len(ops) // 2)
    while size:
        for end in range(len(kept), 0, -size):
            rest = kept[: max(0, end - size)] + kept[end:]
            if rest and sqnr(rest) >= floor_db:
                kept = rest
        size //= 2
    return tuple(kept)
