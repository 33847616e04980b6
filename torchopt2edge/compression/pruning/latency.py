"""Meet a budget in milliseconds: predict, cut, measure, correct."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchopt2edge.compression.pruning.budget_target import Target
from torchopt2edge.compression.pruning.groups import Price
from torchopt2edge.compression.pruning.search import Found, Search
from torchopt2edge.errors import PruneError
from torchopt2edge.interfaces import Meter, Profile
from torchopt2edge.models.count import Layer

_LOG = logging.getLogger("torchopt2edge")
_TRIES = 6
_CLOSE = 0.95  # of the wanted latency: nearer than this the search ends


@dataclass(frozen=True)
class Try:
    """One net of the search: the share of the predicted time it was cut to, and its latency."""

    share: float
    predicted_ms: float
    ms: float
    low: float
    high: float


def priced(profile: Profile, layers: Mapping[str, Layer]) -> Price:
    """Return a price in milliseconds: a layer's measured time, by the share of its MACs left."""

    def price(name: str, layer: Layer) -> float:
        return profile.layers.get(name, 0.0) * layer.macs / max(1, layers[name].macs)

    return price


def to_latency(
    search: Search, target: Target, meter: Meter, widths: Mapping[str, int]
) -> tuple[Found, list[Try]]:
    """Return the cuts whose file takes no more than ``target`` milliseconds, and the tries.

    The share of the predicted time is corrected by what each try was measured at (as NetAdapt
    does with its tables: Yang et al. 2018), until a try is within 5 % of the target.

    Raises:
        PruneError: it cannot be met; it names the closest latency.
    """
    profile = meter.profile(search.net, search.shape, target.where)
    price, whole = priced(profile, search.layers), sum(profile.layers.values())
    share = (target.value - profile.rest) / max(whole, 1e-9)
    tries: list[tuple[Try, Found]] = []
    while len(tries) < _TRIES:
        found, share = _cut(search, share, price, widths)
        one = _tried(search, found, share, profile, meter, target)
        tries.append((one, found))
        _LOG.info("prune: %.3f ms at %.0f %% of the layers' time", one.ms, 100 * share)
        if _CLOSE * target.value <= one.ms <= target.value or (
            share >= 1 and one.ms <= target.value
        ):
            break
        layers = max(one.ms - profile.rest, 0.02 * one.ms)
        wanted = max((1 + _CLOSE) / 2 * target.value - profile.rest, 0.02 * target.value)
        after = min(1.0, share * min(1.5, max(0.5, wanted / layers)))
        if abs(after - share) < 1e-3:
            break
        share = after
    met = [pair for pair in tries if pair[0].ms <= target.value]
    if not met:
        best = min(one.ms for one, _ in tries)
        raise PruneError(
            f"pruning reaches {best:.3g} ms, not {target.value:g} ms, in {target.where}",
            hint=f"latency_ms:{best * 1.02:.3g}@{target.where}, a larger max_cut, a smaller net",
        )
    return max(met, key=lambda pair: pair[0].share)[1], [one for one, _ in tries]


def _cut(
    search: Search, share: float, price: Price, widths: Mapping[str, int]
) -> tuple[Found, float]:
    """Cut to the share, or as far as it goes."""
    share = min(1.0, max(share, 0.01))
    while True:
        try:
            return search.cut(share, price, widths), share
        except PruneError:
            if share >= 0.95:
                raise
            share = min(1.0, share * 1.15 + 0.01)


def _tried(
    search: Search, found: Found, share: float, profile: Profile, meter: Meter, target: Target
) -> Try:
    twin: Any = copy.deepcopy(search.net)
    found.plan.apply(twin)
    ms, low, high = meter.measure(twin, search.shape, target.where)
    predicted = profile.rest + share * sum(profile.layers.values())
    return Try(round(share, 4), predicted, ms, low, high)
