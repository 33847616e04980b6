"""The search for the ops that stay in float: held by properties, on drops that are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchopt2edge.errors import ConfigError, StoreError
from torchopt2edge.quantize.mixed_precision import LIMIT, search
from torchopt2edge.quantize.sensitivity import Sensitivity

Ops = tuple[str, ...]
MOBILENET = 65  # ops in MobileNetV2
costs = st.lists(
    st.tuples(st.floats(0.0, 3.0), st.integers(0, 10**6)), min_size=1, max_size=MOBILENET
)


def ranked(noise: list[float], macs: list[int] | None = None) -> list[Sensitivity]:
    """Return a ranking in which op i makes this much noise alone and nothing besides."""
    macs = macs or [1000] * len(noise)
    return [
        Sensitivity(f"op{at}", "Conv", count, _db(one), 10.0, 10.0, (f"op{at}",))
        for at, (one, count) in enumerate(zip(noise, macs, strict=True))
    ]


def _db(noise: float) -> float:
    return -10 * math.log10(noise) if noise > 1e-10 else 100.0


def additive(drops: list[float]) -> Callable[[Ops], float]:
    """Return a drop that is the sum over the ops that are quantized."""
    return lambda excluded: math.fsum(
        drop for at, drop in enumerate(drops) if f"op{at}" not in excluded
    )


@given(costs, st.floats(0.0, 50.0))
@settings(max_examples=150, deadline=None)
def test_within_budget_and_within_ten_evaluations(
    given_costs: list[tuple[float, int]], max_drop: float
) -> None:
    drops, macs = map(list, zip(*given_costs, strict=True))
    calls: list[Ops] = []

    def drop_of(excluded: Ops) -> float:
        calls.append(excluded)
        return additive(drops)(excluded)

    found = search(ranked(drops, macs), drop_of, max_drop)
    assert len(calls) == len(set(calls)) == found.evaluations <= LIMIT
    assert found.met, "everything in float drops nothing"
    assert found.drop <= max_drop
    assert found.drop == additive(drops)(found.excluded)
    total = sum(macs)
    share = sum(macs[int(op[2:])] for op in found.excluded)
    assert found.macs_float_share == pytest.approx(100 * share / total if total else 0.0)
    within = [ops for ops in calls if additive(drops)(ops) <= max_drop]
    assert all(share <= sum(macs[int(op[2:])] for op in ops) for ops in within)


@given(costs, st.floats(0.0, 50.0), st.integers(1, 9), st.integers(1, LIMIT))
@settings(max_examples=60, deadline=None)
def test_a_search_that_was_killed_ends_as_if_it_had_not_been(
    given_costs: list[tuple[float, int]], max_drop: float, killed_at: int, limit: int
) -> None:
    drops, macs = map(list, zip(*given_costs, strict=True))
    ranking = ranked(drops, macs)
    calls: list[Ops] = []

    def dying(excluded: Ops) -> float:
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        calls.append(excluded)
        return additive(drops)(excluded)

    def living(excluded: Ops) -> float:
        calls.append(excluded)
        return additive(drops)(excluded)

    whole = search(ranking, additive(drops), max_drop, limit)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        try:
            first = search(ranking, dying, max_drop, limit, log)
        except KeyboardInterrupt:
            assert len(json.loads(log.read_text())["evaluations"]) == killed_at
        else:
            assert first == whole
        assert search(ranking, living, max_drop, limit, log) == whole
        assert len(calls) == len(set(calls)) == whole.evaluations, "none was repeated"
        assert list(Path(folder).iterdir()) == [log]


def test_nothing_is_left_in_float_without_need() -> None:
    found = search(ranked([0.1] * 5), additive([0.1] * 5), 0.5001)
    assert (found.excluded, found.evaluations, found.met) == ((), 1, True)
    assert found.macs_float_share == 0.0


@pytest.mark.parametrize("bad", [0, 17, 64])
def test_one_bad_op_is_found_alone(bad: int) -> None:
    drops = [0.001] * MOBILENET
    drops[bad] = 5.0
    found = search(ranked(drops), additive(drops), 0.1)
    assert found.excluded == (f"op{bad}",)
    assert found.evaluations <= 5


def test_a_member_that_is_not_needed_goes() -> None:
    """The costliest op stands first for its noise, yet the metric does not mind it."""
    noise, macs = [5.0, 0.4, 0.3], [9000, 1000, 1000]
    found = search(ranked(noise, macs), additive([0.0, 2.0, 2.0]), 1.0)
    assert found.excluded == ("op1", "op2")


def test_two_that_only_help_together() -> None:
    def drop_of(excluded: Ops) -> float:
        return 0.2 if {"op3", "op4"} <= set(excluded) else 8.0

    noise = [0.1, 0.1, 0.2, 1.0, 0.9, 0.1]
    assert search(ranked(noise), drop_of, 0.5).excluded == ("op3", "op4")


def test_a_budget_that_nothing_meets() -> None:
    found = search(ranked([1.0, 2.0, 3.0]), lambda excluded: 7.0 - len(excluded), 1.0, 4)
    assert not found.met
    assert found.drop == 4.0
    assert found.evaluations <= 4
    assert set(found.excluded) == {"op0", "op1", "op2"}, "the least drop there was"


def test_a_drop_that_is_no_number_is_not_within() -> None:
    found = search(ranked([1.0, 2.0]), lambda ops: 0.0 if ops else math.nan, 0.5)
    assert found.met
    assert found.excluded


def test_a_block_is_left_in_float_as_a_whole() -> None:
    block = Sensitivity("a … b", "Conv", 7, 10.0, 20.0, 10.0, ("a", "b"))
    found = search([block], lambda ops: 0.0 if ops == ("a", "b") else 3.0, 1.0)
    assert found.excluded == ("a", "b")
    assert found.macs_float_share == 100.0


def test_no_ops_at_all() -> None:
    found = search([], lambda ops: 2.0, 1.0)
    assert (found.excluded, found.met, found.macs_float_share) == ((), False, 0.0)


def test_another_rankings_trail_is_begun_anew(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    search(ranked([1.0, 2.0]), lambda ops: 0.0, 1.0, log=log)
    found = search(ranked([1.0, 3.0]), lambda ops: 9.0 - 9.0 * bool(ops), 1.0, log=log)
    assert found.excluded


def test_a_trail_that_cannot_be_read(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text("{")
    with pytest.raises(StoreError, match="log of a search cannot be read"):
        search(ranked([1.0]), lambda ops: 0.0, 1.0, log=log)


def test_a_search_without_an_answer() -> None:
    with pytest.raises(ConfigError, match="limit 0"):
        search(ranked([1.0]), lambda ops: 0.0, 1.0, 0)
