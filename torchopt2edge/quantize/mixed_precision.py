"""Find the fewest multiply-accumulates to leave in float so that the metric stays within budget.

The rules, cited in the code:

M1. Ops stand in the order of their noise per cost, worst first. The cost is the MACs, and a little
    for every op: each one in float makes its neighbours convert.
M2. The shortest prefix of that order that is within budget is found by bisection, short ones
    first: most nets have a few bad ops. When the evaluations run out before any prefix was
    within, the last one is spent on the whole order.
M3. What evaluations are left go to members of that prefix that may not be needed: from its end,
    in pieces of half its length, then of half that.
M4. The answer is the evaluated set within budget with the fewest MACs; when none is, the one with
    the least drop.
M5. Every evaluation is written down before the next one, and none that is written is repeated.
    The rules look at nothing else, so a search that was killed ends as if it had not been.
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
PER_OP = 1e-3  # of the net's MACs: the cost of an op in float beside its own MACs (M1)
Ops = tuple[str, ...]
Ranking = Sequence[Sensitivity]


@dataclass(frozen=True)
class Mixed:
    """Which ops stay in float and what that was measured to cost.

    ``drop`` is in points of the metric; ``macs_float_share`` in per cent of the ranked ops' MACs;
    ``evaluations`` counts those of the whole search, read from the trail or made; ``met`` tells
    whether the drop is within budget.
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
    trail: Path | None = None,
) -> Mixed:
    """Return the ops to leave in float, by at most ``limit`` calls of ``drop_of(excluded)``.

    ``drop_of`` returns the loss of the metric in points when these ops are in float and all
    others quantized. ``trail`` is the file of M5, made when it is not there; one of another
    ranking is begun anew.

    Raises:
        ConfigError: a limit below 1, or no budget.
        StoreError: the trail cannot be read.
    """
    if limit < 1 or math.isnan(max_drop):
        raise ConfigError(f"a search with limit {limit} and max_drop {max_drop} has no answer")
    book = _Book(ranking, drop_of, limit, trail)
    order = _order(ranking)
    held = _prefix(order, book, max_drop)
    if held:
        _shrink(held, book, max_drop)
    return book.best(max_drop)


def _order(ranking: Ranking) -> list[Sensitivity]:
    """M1."""
    fixed = max(PER_OP * sum(one.macs for one in ranking), 1.0)
    return sorted(ranking, key=lambda one: -one.noise / (one.macs + fixed))


def _prefix(order: Ranking, book: _Book, max_drop: float) -> list[Sensitivity]:
    """M2: return the shortest prefix found within budget, nothing when none was."""
    low, high = 0, len(order) + 1
    if book.drop([]) <= max_drop:
        return []
    while high - low > 1 and book.left:
        middle = round(math.sqrt(max(low, 1) * high))
        middle = min(max(middle, low + 1), high - 1)
        if book.left == 1 and high > len(order):
            middle = len(order)
        if book.drop(order[:middle]) <= max_drop:
            high = middle
        else:
            low = middle
    return list(order[:high]) if high <= len(order) else []


def _shrink(held: list[Sensitivity], book: _Book, max_drop: float) -> None:
    """M3; the last member is needed, or the prefix would be shorter."""
    doubtful = held[-2::-1]
    size = max(len(doubtful) // 2, 1)
    while doubtful and book.left:
        piece = {one.op for one in doubtful[:size]}
        fewer = [one for one in held if one.op not in piece]
        if book.drop(fewer) <= max_drop:
            held = fewer
        elif size > 1:
            size //= 2
            continue
        doubtful = doubtful[size:]


class _Book:
    """M5: the evaluations of one search, in memory and on the trail."""

    def __init__(
        self, ranking: Ranking, drop_of: Callable[[Ops], float], limit: int, trail: Path | None
    ) -> None:
        self._ranking, self._drop_of = ranking, drop_of
        self._limit, self._trail = limit, trail
        record = json.dumps([one.to_json() for one in ranking], sort_keys=True)
        self._digest = hashlib.sha256(record.encode()).hexdigest()
        self._written = self._read()
        self._asked: dict[Ops, float] = {}

    @property
    def left(self) -> int:
        """How many evaluations may still be made."""
        return self._limit - len(self._asked)

    def drop(self, chosen: Ranking) -> float:
        """Return the drop with these in float; a drop that is no number is no answer."""
        places = {one.op for one in chosen}
        ops = tuple(m for one in self._ranking if one.op in places for m in one.members)
        if ops not in self._written:
            self._written[ops] = float(self._drop_of(ops))
            self._write()
        found = self._written[ops]
        self._asked[ops] = math.inf if math.isnan(found) else found
        return self._asked[ops]

    def best(self, max_drop: float) -> Mixed:
        """M4."""
        macs = {one.members: one.macs for one in self._ranking}
        total = sum(macs.values())

        def cost(ops: Ops) -> int:
            return sum(count for members, count in macs.items() if {*members} <= {*ops})

        within = [ops for ops, drop in self._asked.items() if drop <= max_drop]
        if within:
            ops = min(within, key=lambda ops: (cost(ops), len(ops)))
        else:
            ops = min(self._asked, key=lambda ops: (self._asked[ops], cost(ops)))
        share = 100.0 * cost(ops) / total if total else 0.0
        return Mixed(ops, self._asked[ops], share, len(self._asked), bool(within))

    def _read(self) -> dict[Ops, float]:
        if self._trail is None or not self._trail.exists():
            return {}
        try:
            record = json.loads(self._trail.read_text())
            if record["ranking"] != self._digest:
                return {}
            return {tuple(one["excluded"]): float(one["drop"]) for one in record["evaluations"]}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(
                "the trail of a search cannot be read",
                artifact=self._trail,
                hint=f"rm {self._trail}, and the search begins anew",
            ) from error

    def _write(self) -> None:
        if self._trail is None:
            return
        done = [{"excluded": ops, "drop": drop} for ops, drop in self._written.items()]
        beside = self._trail.with_name(f".{self._trail.name}.{os.getpid()}")
        beside.write_text(json.dumps({"ranking": self._digest, "evaluations": done}))
        beside.replace(self._trail)
