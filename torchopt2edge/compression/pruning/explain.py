"""Say what would be cut, before it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from torchopt2edge.compression.pruning.control import PruneControl
from torchopt2edge.compression.pruning.latency import priced
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.interfaces import Meter, Profile
from torchopt2edge.models import count
from torchopt2edge.models.count import Layer

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A layer before and after: output channels, multiply-accumulates, weights, milliseconds.

    ``group`` is the layer whose channels decide; ``ms`` is a prediction: the measured time of
    the whole layer, by the share of its multiply-accumulates that is left. None: not profiled.
    """

    layer: str
    group: str
    channels: tuple[int, int]
    macs: tuple[int, int]
    params: tuple[int, int]
    ms: tuple[float, float] | None = None


@dataclass(frozen=True)
class Explanation:
    """The rows, the layers that stay whole and why, and the time that is in no layer."""

    rows: tuple[Row, ...]
    kept: Mapping[str, str]
    rest_ms: float | None = None

    def total(self, what: str) -> tuple[float, float]:
        """Return the sum of ``macs``, ``params`` or ``ms`` before and after."""
        pairs = [getattr(row, what) or (0.0, 0.0) for row in self.rows]
        rest = self.rest_ms or 0.0 if what == "ms" else 0.0
        return sum(p[0] for p in pairs) + rest, sum(p[1] for p in pairs) + rest

    def table(self) -> Table:
        """Return a table for a console."""
        from rich.table import Table

        table = Table(title="What would be cut", title_justify="left")
        timed = any(row.ms for row in self.rows)
        table.add_column("layer", overflow="fold")
        table.add_column("goes with", overflow="fold")
        for name in ("channels", "MACs", "parameters", *(["predicted ms"] if timed else [])):
            table.add_column(name, justify="right")
        for row in self.rows:
            style = None if row.macs[0] != row.macs[1] else "dim"
            table.add_row(*self._cells(row, timed), style=style)
        ends = [f"{_count(a)} → {_count(b)}" for a, b in map(self.total, ("macs", "params"))]
        a, b = self.total("ms")
        table.add_section()
        table.add_row("all", "", "", *ends, *([f"{a:.3f} → {b:.3f}"] if timed else []))
        return table

    def _cells(self, row: Row, timed: bool) -> list[str]:
        cells = [row.layer, row.group, _arrow(*row.channels)]
        cells += [_arrow(*row.macs), _arrow(*row.params)]
        return cells + ([f"{row.ms[0]:.3f} → {row.ms[1]:.3f}" if row.ms else "–"] if timed else [])

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            console.print(self.table())
            for layer, why in self.kept.items():
                console.print(f"stays whole: {layer}: {why}", markup=False, highlight=False)
        return captured.get()


def explain(
    net: nn.Module, shape: tuple[int, ...], spec: Prune, meter: Meter | None = None, where: str = ""
) -> Explanation:
    """Return what ``spec`` would cut at its end; ``net`` stays as it is.

    ``shape`` is that of one sample. With a ``meter`` each layer's latency is predicted, in the
    file ``where`` (``ort-int8``), or in that of the spec's own target.

    Raises:
        PruneError: the budget cannot be met, or the net cannot be traced.
    """
    twin = copy.deepcopy(net)
    before = count.layers(net, shape)
    control = PruneControl(_at_once(spec), shape, meter=meter)
    control.attach(twin, None)
    after = count.layers(twin, shape)
    where = where or (control.target.where if control.target else "") or "ort-fp32"
    profile = meter.profile(net, shape, where) if meter is not None else None
    roots = _roots(twin, control)
    rows = tuple(_row(name, roots, before, after, profile) for name in before)
    return Explanation(rows, control.kept, profile.rest if profile else None)


def _at_once(spec: Prune) -> Prune:
    from torchopt2edge.compression.schedules import OneShot

    importance = "group_l2" if spec.importance == "taylor" else spec.importance  # no gradients yet
    changed = {"schedule": OneShot(), "regularize": "none", "importance": importance}
    return Prune(**{**vars(spec), **changed})


def _roots(net: nn.Module, control: PruneControl) -> dict[str, str]:
    from torchopt2edge.compression.pruning.groups import find

    groups = find(net, control.shape, "group_l2")
    return {name: group.layer for group in groups for name in group.outputs}


def _row(
    name: str,
    roots: Mapping[str, str],
    before: Mapping[str, Layer],
    after: Mapping[str, Layer],
    profile: Profile | None,
) -> Row:
    a, b = before[name], after[name]
    ms = None
    if profile is not None:
        price = priced(profile, before)
        ms = (price(name, a), price(name, b))
    pairs = (a.outputs, b.outputs), (a.macs, b.macs), (a.params, b.params)
    return Row(name, roots.get(name, "–"), *pairs, ms)


def _arrow(before: int, after: int) -> str:
    return _count(before) if before == after else f"{_count(before)} → {_count(after)}"


def _count(value: float) -> str:
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= limit:
            return f"{value / (1e3 if suffix == ' k' else limit):.3g}{suffix}"
    return f"{value:.0f}"
