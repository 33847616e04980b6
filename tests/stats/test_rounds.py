"""What the statistics promise, on simulated rounds with known truth."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchopt2edge.stats import rounds as round_stats

Rounds = list[list[int]]


def in_turns(
    seed: int, gap: float = 1.0, rounds: int = 20, drift: float = 0.03, samples: int = 15
) -> tuple[Rounds, Rounds]:
    """Two files timed in turns on a drifting machine whose rounds have weather of their own."""
    rng = np.random.default_rng(seed)
    weather = 1.0 + drift * np.linspace(0, 1, rounds) + 0.02 * rng.standard_t(4, rounds)
    files: list[Rounds] = []
    for scale in (1.0, gap):
        own = scale * weather * (1.0 + 0.005 * rng.normal(size=rounds))
        noise = 1.0 + 0.01 * rng.exponential(size=(rounds, samples))
        files.append((1e6 * own[:, None] * noise).astype(int).tolist())
    return files[0], files[1]


def test_two_equal_files_rarely_differ() -> None:
    outside = 0
    for seed in range(120):
        _, low, high = round_stats.paired_ratio(*in_turns(seed))
        outside += not low <= 1.0 <= high
    assert outside <= 12  # 5 % nominal; 12 of 120 is 2.5 standard deviations away


def test_a_planted_gap_is_found_and_sized() -> None:
    ratios = [round_stats.paired_ratio(*reversed(in_turns(seed, gap=1.05))) for seed in range(50)]
    assert all(low > 1.01 for _, low, _ in ratios)
    assert sum(low <= 1.05 <= high for _, low, high in ratios) >= 44


def test_blocks_of_runs_instead_of_turns_deceive() -> None:
    """Why rule 1 exists: the same machine, one file after the other."""
    wrong = 0
    for seed in range(100):
        long, _ = in_turns(seed, rounds=40, drift=0.06)
        _, low, high = round_stats.paired_ratio(long[:20], long[20:])
        wrong += not low <= 1.0 <= high
    assert wrong > 50


@pytest.mark.parametrize("count", [5, 8, 12, 20, 32])
def test_the_interval_covers_with_few_rounds(count: int) -> None:
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(100):
        _, low, high = round_stats.median_interval(rng.standard_t(3, count))
        covered += low <= 0.0 <= high
    assert covered >= 88


def hanging_together(rng: np.random.Generator, count: int, r: float = 0.8) -> round_stats.Vector:
    """Values of an autoregressive series of median 0."""
    steps = rng.normal(size=count + 50)
    values = np.zeros(count + 50)
    for at in range(1, count + 50):
        values[at] = r * values[at - 1] + steps[at]
    return values[50:]


def test_rounds_that_hang_together_count_for_fewer() -> None:
    """As those of a file that ran alone: heat and neighbours stay for many rounds."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        _, low, high = round_stats.median_interval(hanging_together(rng, 60))
        covered += low <= 0.0 <= high
    assert covered >= 82, "55 without the stretch"


def test_independent_rounds_are_not_stretched_and_a_step_is() -> None:
    rng = np.random.default_rng(0)
    assert sum(round_stats.stretch(rng.standard_t(2, 20)) > 1.0 for _ in range(200)) <= 20
    assert round_stats.stretch(np.repeat([1.0, 2.0], 10)) == pytest.approx(math.sqrt(1.85 / 0.15))
    assert round_stats.stretch(np.tile([1.0, 2.0], 10)) == round_stats.stretch(np.ones(9)) == 1.0
    middle, low, high = round_stats.median_interval([1.0] * 9 + [1.5] * 8 + [1.4] * 3)
    assert 1.0 <= low < middle < high <= 1.5, "never beyond the values"


def test_a_shift_of_two_runs_is_not_paired() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=20), rng.normal(0.5, 1.0, 12)
    middle, low, high = round_stats.median_shift(before, after)
    assert low < middle < high
    assert middle == pytest.approx(np.median(after) - np.median(before))
    assert round_stats.median_shift(np.ones(9), np.full(9, 3.0)) == (2.0, 2.0, 2.0)
    assert round_stats.median_shift(before, after[:4])[1:] == (-math.inf, math.inf)
    covered = 0
    for _ in range(100):
        _, low, high = round_stats.median_shift(rng.normal(size=20), rng.normal(size=12))
        covered += low <= 0.0 <= high
    assert covered >= 88


def test_a_coarse_clock_is_in_the_interval() -> None:
    same = [[1000, 1000]] * 9
    assert round_stats.paired_ratio(same, same) == (1.0, 1.0, 1.0)
    ratio, low, high = round_stats.paired_ratio(same, same, step_ns=100.0)
    assert (ratio, low, high) == (1.0, pytest.approx(1 / 1.05**2), pytest.approx(1.05**2))
    assert round_stats.clock_step({"timer_resolution_ns": 100}) == 100.0
    assert (
        round_stats.clock_step({"timer_resolution_ns": "unavailable"})
        == round_stats.clock_step({})
        == 0.0
    )


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20))
def test_an_interval_holds_its_median(values: list[float]) -> None:
    middle, low, high = round_stats.median_interval(values)
    assert low <= middle <= high
    assert middle == pytest.approx(np.median(values))


PAIRS = st.integers(5, 12).flatmap(
    lambda rounds: st.tuples(
        *2
        * [st.lists(st.lists(st.integers(1, 10**7), min_size=1), min_size=rounds, max_size=rounds)]
    )
)


@settings(deadline=None)
@given(PAIRS, st.integers(2, 1000))
def test_a_ratio_does_not_know_the_unit_nor_who_is_above(
    pair: tuple[Rounds, Rounds], unit: int
) -> None:
    ratio, low, high = round_stats.paired_ratio(*pair)
    assert low <= ratio * (1 + 1e-12)
    assert ratio <= high * (1 + 1e-12)
    scaled = [[[ns * unit for ns in one] for one in rounds] for rounds in pair]
    assert round_stats.paired_ratio(*scaled) == pytest.approx((ratio, low, high))
    turned = round_stats.paired_ratio(*reversed(pair))
    assert turned == pytest.approx((1 / ratio, 1 / high, 1 / low))
    assert round_stats.paired_ratio(pair[0], pair[0]) == (1.0, 1.0, 1.0)


@settings(deadline=None)
@given(st.lists(st.floats(1.0, 1e6), min_size=5, max_size=30))
def test_a_drift_backwards_is_its_opposite(medians: list[float]) -> None:
    change, low, high = round_stats.drift(medians)
    assert low <= change <= high
    wanted = pytest.approx((-change, -high, -low), rel=1e-6, abs=1e-9)
    assert round_stats.drift(medians[::-1]) == wanted


def test_a_constant_has_no_spread_and_few_rounds_no_interval() -> None:
    assert round_stats.median_interval([2.0] * 9) == (2.0, 2.0, 2.0)
    assert round_stats.paired_ratio([[200, 201]] * 6, [[100, 100]] * 6) == pytest.approx(
        (2.005, 2.005, 2.005)
    )
    ratio, low, high = round_stats.paired_ratio([[2]] * 4, [[1]] * 4)
    assert (ratio, low, high) == (pytest.approx(2.0), 0.0, math.inf)
    with pytest.raises(ValueError, match="no values"):
        round_stats.median_interval([])


def test_the_same_rows_give_the_same_interval() -> None:
    first, second = in_turns(3)
    assert round_stats.paired_ratio(first, second) == round_stats.paired_ratio(first, second)
    forward, backward = (
        round_stats.paired_ratio(first, second),
        round_stats.paired_ratio(second, first),
    )
    assert forward[0] == pytest.approx(1 / backward[0])


def test_only_common_rounds_are_paired() -> None:
    slow, fast = [[20]] * 5 + [[1000]] * 3, [[10]] * 5
    assert round_stats.paired_ratio(slow, fast)[0] == pytest.approx(2.0)


@given(st.lists(st.integers(1, 10**9), min_size=64, max_size=90), st.sampled_from([50, 75, 90]))
def test_percentiles_are_nearest_rank(samples: list[int], percent: int) -> None:
    found = round_stats.percentile(samples, percent)
    assert found == sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


@pytest.mark.parametrize(("percent", "least"), [(90, 64), (99, 459), (95, 459)])
def test_a_percentile_beyond_the_sample_is_refused(percent: int, least: int) -> None:
    samples = list(range(1, least + 1))
    assert round_stats.percentile(samples, percent) is not None
    assert round_stats.percentile(samples[:-1], percent) is None


def test_no_sample_supports_these_percentiles() -> None:
    assert round_stats.percentile([], 50) is None
    assert round_stats.percentile(list(range(10_000)), 99.9) is None


def test_drift_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = 1.0 + 0.01 * rng.normal(size=30)
    change, low, high = round_stats.drift(100.0 * noise * np.linspace(1.0, 1.2, 30))
    assert change == pytest.approx(0.18, abs=0.03)
    assert low > 0.0
    _, low, high = round_stats.drift(100.0 * noise)
    assert low < 0.0 < high
    assert round_stats.drift([1.0, 2.0]) == (0.0, -math.inf, math.inf)


def quota(seed: int, share: float) -> list[int]:
    """One round under a CPU quota: nearly all inferences as ever, a few with a long stop."""
    rng = random.Random(seed)
    stop = 90 * 40_000 if share < 1.0 else 40_000
    return [stop if at % 30 == 0 else 40_000 + rng.randrange(400) for at in range(300)]


def test_a_quota_is_seen_where_the_median_is_blind() -> None:
    rounds = [quota(at, 1.0) for at in range(10)] + [quota(at, 0.2) for at in range(10)]
    medians = round_stats.round_medians(rounds)
    assert medians[:10].mean() == pytest.approx(medians[10:].mean(), rel=0.01)
    assert round_stats.lost_throughput(rounds) > 0.5
    assert round_stats.lost_throughput(rounds[:10]) < 0.05


def test_a_quota_from_the_outset_shows_as_stalls() -> None:
    rounds = [quota(at, 0.2) for at in range(10)]
    assert round_stats.lost_throughput(rounds) < 0.05
    assert round_stats.stalled(rounds) > 0.5
    assert round_stats.stalled([quota(at, 1.0) for at in range(10)]) < 0.05


def test_one_slow_round_is_not_throttling() -> None:
    rounds = [quota(at, 1.0) for at in range(20)]
    rounds[7] = [sample * 3 for sample in rounds[7]]
    assert round_stats.lost_throughput(rounds) < 0.5


@pytest.mark.parametrize("stop", [3, 30, 3000])
def test_one_long_stop_is_no_throttling_whatever_its_length(stop: int) -> None:
    rounds = [[1_000_000] * 50 for _ in range(8)]
    rounds[3][7] *= 50 * stop
    assert round_stats.lost_throughput(rounds) == pytest.approx(0.0)
    assert round_stats.stalled(rounds) == pytest.approx(0.0)


def test_flatness_looks_at_the_last_medians() -> None:
    assert not round_stats.is_flat([100.0, 100.0])
    assert not round_stats.is_flat([100.0, 95.0, 90.0, 85.0, 80.0])
    assert round_stats.is_flat([200.0, 150.0, 100.0, 100.5, 99.7, 100.1, 100.0])


def test_a_percentile_has_an_interval() -> None:
    rounds, _ = in_turns(0, rounds=20, samples=60)
    found = round_stats.percentile_interval(rounds, 90)
    assert found is not None
    middle, low, high = found
    pooled = [one for each in rounds for one in each]
    assert middle == round_stats.percentile(pooled, 90)
    assert low < middle < high
    assert {low, high} <= set(pooled)


def test_a_percentile_that_the_samples_cannot_carry_is_refused() -> None:
    assert round_stats.percentile_interval([[1] * 10] * 5, 90) is None
    assert round_stats.percentile_interval([[1] * 20] * 20, 99) is None
    assert round_stats.percentile_interval([], 50) is None
    assert round_stats.percentile_interval([[5] * 40, [5] * 40], 90) == (5.0, 5.0, 5.0)
    few = round_stats.percentile_interval([[1], [2], [3]], 50)
    assert few == (2.0, 1.0, math.inf)


@pytest.mark.parametrize(("percent", "z"), [(50, 0.0), (90, 1.2816), (99, 2.3263)])
def test_the_interval_of_a_percentile_covers_it(percent: float, z: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        rounds = (1e6 * (1.0 + 0.1 * rng.normal(size=(16, 40)))).astype(int).tolist()
        found = round_stats.percentile_interval(rounds, percent)
        assert found is not None
        covered += found[1] <= 1e6 * (1.0 + 0.1 * z) <= found[2]
    assert covered >= 180  # 95 % nominal; 90 % of 200 is more than three standard deviations below


@pytest.mark.parametrize("count", [5, 6, 20, 32, 121])
def test_the_bootstrap_is_scipys(count: int) -> None:
    from scipy.stats import bootstrap, norm, t

    values = np.random.default_rng(count).standard_t(3, count)
    stretch = t.ppf(0.975, count - 1) * math.sqrt(count / (count - 1))
    found = bootstrap(
        (values,),
        np.median,
        n_resamples=4999,
        confidence_level=1 - 2 * norm.cdf(-stretch),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert round_stats.median_interval(values)[1:] == pytest.approx(
        tuple(found), rel=1e-12, abs=1e-12
    )


@given(st.lists(st.integers(1, 30), min_size=5, max_size=60))
def test_the_drift_is_scipys(medians: list[int]) -> None:
    """Small whole numbers, so that many are equal, which narrows Sen's interval."""
    from scipy.stats import theilslopes

    found = theilslopes(medians, alpha=0.99)
    scale = (len(medians) - 1) / float(np.median(medians))
    wanted = [scale * found[0], scale * found[2], scale * found[3]]
    assert round_stats.drift(medians) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("percent", [1, 25, 50, 90, 99])
@pytest.mark.parametrize("count", [1, 3, 40, 459, 20_000, 300_000])
def test_the_ranks_of_a_percentile_are_scipys(count: int, percent: int) -> None:
    from scipy.stats import binom

    for quantile in (0.025, 0.5, 0.975):
        wanted = int(binom.ppf(quantile, count, percent / 100))
        assert round_stats._successes(quantile, count, percent / 100) == wanted


def test_the_dear_half_of_scipy_stays_away() -> None:
    """Its import would be most of what the harness takes of the processor."""
    code = (
        "import sys\n"
        "from torchopt2edge.stats import rounds as stats\n"
        "rounds = [[at + 10, at + 12] for at in range(40)]\n"
        "stats.paired_ratio(rounds, rounds[::-1])\n"
        "stats.percentile_interval(rounds, 90)\n"
        "stats.drift(stats.round_medians(rounds))\n"
        "assert 'scipy.special' in sys.modules\n"
        "assert 'scipy.stats' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
