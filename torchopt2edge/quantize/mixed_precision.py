"""Find the fewest multiply-accumulates to leave in float so that the metric stays within budget.

The rules, cited in the code:

M1. Operators are ordered by their noise per cost, worst first. The cost is the MACs, plus a little
    for every operator: each one in float makes its neighbours convert.
M2. The shortest prefix of that order that is within budget is found by bisection, short ones first:
    most nets have a few bad operators. When the evaluations run out before any prefix was within
    budget, the last one is spent on the whole order.
M3. The evaluations that are left are spent on members of that prefix that may not be needed: from
    its end, in pieces of half its length, then of half that.
M4. The answer is the evaluated set within budget with the fewest MACs, or without one the set with
    the least drop.
M5. Every evaluation is logged before the next one, and none in the log is repeated. The rules
    depend on nothing else, so a search that was killed ends as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchopt2edge.errors import ConfigError, StoreError
from torchopt2edge.quantize.sensitivity import Sensitivity

LIMIT = 10
PER_OP = 1e-3  # of the net's MACs: the cost of an operator in float besides its own MACs (M1)
Ops = tuple[str, ...]
Ranking = Sequence[Sensitivity]


@dataclass(frozen=True)
class MixedPrecision:
    """Which operators stay in float, and what that costs.

    Attributes:
        excluded: the names of the operators.
        drop: in points of the metric.
        macs_float_share: in per cent of the ranked operators' MACs.
        evaluations: how many the search took, those read from the log included.
        met: whether the drop is within budget.
    """

    excluded: Ops
    drop: float
    macs_float_share: float
    evaluations: int
    met: bool


def search(
    ranking: Ranking,
    drop_of: Callable[[Ops], float],
    max_drop: float,
    limit: int = LIMIT,
    log: Path | None = None,
) -> MixedPrecision:
    """Search for the operators to leave in float.

    Args:
        ranking: the operators and what quantizing each of them costs.
        drop_of: returns the drop of the metric in points with these operators in float and all
            others quantized.
        max_drop: the budget in points.
        limit: how often ``drop_of`` is called at most.
        log: the file of M5. One of another ranking is started again.

    Raises:
        ConfigError: a limit below 1, or no budget.
        StoreError: the log cannot be read.
    """
    if limit < 1 or math.isnan(max_drop):
        raise ConfigError(f"a search with limit {limit} and max_drop {max_drop} has no answer")
    evaluations = _Evaluations(ranking, drop_of, limit, log)
    order = _order(ranking)
    prefix = _prefix(order, evaluations, max_drop)
    if prefix:
        _shrink(prefix, evaluations, max_drop)
    return evaluations.best(max_drop)


def _order(ranking: Ranking) -> list[Sensitivity]:
    """M1."""
    fixed = max(PER_OP * sum(row.macs for row in ranking), 1.0)
    return sorted(ranking, key=lambda row: -row.noise / (row.macs + fixed))


def _prefix(order: Ranking, evaluations: _Evaluations, max_drop: float) -> list[Sensitivity]:
    """M2: return the shortest prefix within budget, nothing when there is none or no need."""
    low, high = 0, len(order) + 1
    if evaluations.drop([]) <= max_drop:
        return []
    while high - low > 1 and evaluations.left:
        middle = round(math.sqrt(max(low, 1) * high))
        middle = min(max(middle, low + 1), high - 1)
        if evaluations.left == 1 and high > len(order):
            middle = len(order)
        if evaluations.drop(order[:middle]) <= max_drop:
            high = middle
        else:
            low = middle
    return list(order[:high]) if high <= len(order) else []


def _shrink(prefix: list[Sensitivity], evaluations: _Evaluations, max_drop: float) -> None:
    """M3; the last member is needed, or the prefix would be shorter."""
    doubtful = prefix[-2::-1]
    size = max(len(doubtful) // 2, 1)
    while doubtful and evaluations.left:
        piece = {row.op for row in doubtful[:size]}
        fewer = [row for row in prefix if row.op not in piece]
        if evaluations.drop(fewer) <= max_drop:
            prefix = fewer
        elif size > 1:
            size //= 2
            continue
        doubtful = doubtful[size:]


class _Evaluations:
    """M5: the evaluations of one search, in memory and in the log."""

    def __init__(
        self, ranking: Ranking, drop_of: Callable[[Ops], float], limit: int, log: Path | None
    ) -> None:
        self._ranking, self._drop_of = ranking, drop_of
        self._limit, self._log = limit, log
        record = json.dumps([row.to_json() for row in ranking], sort_keys=True)
        self._digest = hashlib.sha256(record.encode()).hexdigest()
        self._logged = self._read()
        self._used: dict[Ops, float] = {}

    @property
    def left(self) -> int:
        """How many evaluations are left."""
        return self._limit - len(self._used)

    def drop(self, chosen: Ranking) -> float:
        """Return the drop with these in float; infinite when it is not a number."""
        names = {row.op for row in chosen}
        ops = tuple(member for row in self._ranking if row.op in names for member in row.members)
        if ops not in self._logged:
            self._logged[ops] = float(self._drop_of(ops))
            self._write()
        drop = self._logged[ops]
        self._used[ops] = math.inf if math.isnan(drop) else drop
        return self._used[ops]

    def best(self, max_drop: float) -> MixedPrecision:
        """M4."""
        macs = {row.members: row.macs for row in self._ranking}
        total = sum(macs.values())

        def cost(ops: Ops) -> int:
            return sum(count for members, count in macs.items() if {*members} <= {*ops})

        within = [ops for ops, drop in self._used.items() if drop <= max_drop]
        if within:
            ops = min(within, key=lambda ops: (cost(ops), len(ops)))
        else:
            ops = min(self._used, key=lambda ops: (self._used[ops], cost(ops)))
        share = 100.0 * cost(ops) / total if total else 0.0
        return MixedPrecision(ops, self._used[ops], share, len(self._used), bool(within))

    def _read(self) -> dict[Ops, float]:
        if self._log is None or not self._log.exists():
            return {}
        try:
            record = json.loads(self._log.read_text())
            if record["ranking"] != self._digest:
                return {}
            return {tuple(row["excluded"]): float(row["drop"]) for row in record["evaluations"]}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(
                "the log of a search cannot be read",
                artifact=self._log,
                hint=f"rm {self._log}, and the search starts again",
            ) from error

    def _write(self) -> None:
        if self._log is None:
            return
        rows = [{"excluded": ops, "drop": drop} for ops, drop in self._logged.items()]
        temporary = self._log.with_name(f".{self._log.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"ranking": self._digest, "evaluations": rows}))
        temporary.replace(self._log)
