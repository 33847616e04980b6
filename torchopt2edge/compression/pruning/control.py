"""Cut a net while it trains, or before: the one place that schedules, searches and operates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from torchopt2edge.compression.pruning import regularize
from torchopt2edge.compression.pruning.budget_target import Target, check, target_of
from torchopt2edge.compression.pruning.latency import to_latency
from torchopt2edge.compression.pruning.optimizer_surgery import cut
from torchopt2edge.compression.pruning.search import PRICES, Found, Search, prepare, widths_of
from torchopt2edge.compression.pruning.spec import Prune
from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Meter
from torchopt2edge.models import count
from torchopt2edge.models.cut_plan import Cut, Plan
from torchopt2edge.training.control import Control
from torchopt2edge.training.weight_checks import refuse_broken
from torchopt2edge.types import Facts


class PruneControl(Control):
    """Takes channels out of a net at the steps of ``spec.schedule``.

    ``shape`` is that of one sample. ``refresh`` measures the BatchNorm statistics again after
    a cut. A latency needs a ``meter``; under a schedule with several cuts it is turned
    into the share of MACs that meets it, once. ``plan`` holds all cuts so far.

    Raises:
        ConfigError: the spec's numbers cannot work.
    """

    reshapes = True

    def __init__(
        self,
        spec: Prune,
        shape: tuple[int, ...],
        *,
        refresh: Callable[[nn.Module], None] | None = None,
        meter: Meter | None = None,
        seed: int = 0,
    ) -> None:
        check(spec)
        self.spec, self.shape = spec, tuple(shape)
        self.refresh, self.meter, self.seed = refresh, meter, seed
        self.target = target_of(spec)
        self.cuts: tuple[Cut, ...] = ()
        self.done = -1  # the last step that was acted on
        self.reached = False
        self.widths: dict[str, int] = {}
        self.whole = {"macs": 0.0, "params": 0.0}
        self.kept: Mapping[str, str] = {}
        self.report: Facts = {}
        self.net: nn.Module | None = None
        self.optimizers: tuple[torch.optim.Optimizer, ...] = ()
        self._penalty: regularize.Penalty | None = None
        if self.target and self.target.kind == "latency_ms" and meter is None:
            raise ConfigError(
                f"a budget of {self.target.value:g} ms needs something that measures",
                hint="meter=torchopt2edge.workflow.latency_meter.Meter(), or a share of macs",
            )

    @property
    def plan(self) -> Plan:
        """All cuts so far, as plain data."""
        return Plan(self.shape, self.cuts)

    @property
    def settled(self) -> bool:
        """Whether the last cut is made."""
        return self.reached

    def attach(self, net: nn.Module, *optimizers: torch.optim.Optimizer | None) -> None:
        """Meet the net; cut what is due before the first step."""
        self.optimizers = tuple(one for one in optimizers if one) or self.optimizers
        if self.net is net:
            return
        self.net = net
        if not self.widths:
            self._measure(net)
        if not self.settled and self.spec.schedule.last > 0:
            self._look_ahead(net)
        if self.done < 0:
            self.after_step(0)

    def penalty(self) -> Tensor | None:
        """Push what will be cut towards zero, until the last cut."""
        if self._penalty is None or self.settled:
            return None
        return self._penalty()

    def after_step(self, step: int) -> None:
        """Cut, when the schedule says so.

        Raises:
            PruneError: the budget cannot be met.
            TrainError: weights are not finite.
        """
        if self.reached or step <= self.done or not self.spec.schedule.due(step):
            return
        assert self.net is not None
        refuse_broken(self.net, step)
        found = self._found(step)
        cut(self.net, found.plan, *self.optimizers)
        self.done, self.kept = step, found.kept
        self.reached = step >= self.spec.schedule.last
        self.cuts = (*self.cuts, *found.plan.cuts)
        self.report |= found.facts
        if found.plan.cuts and self.refresh is not None:
            self.refresh(self.net)

    def state_dict(self) -> dict[str, Any]:
        """Return the cuts so far and what they are counted from."""
        target = asdict(self.target) if self.target else None
        plain = {"plan": self.plan.to_json(), "done": self.done, "target": target}
        counted = {"widths": self.widths, "whole": self.whole}
        return {**plain, **counted, "settled": self.settled}

    def restore(self, net: nn.Module, state: dict[str, Any]) -> None:
        """Cut a fresh net as the one that was saved had been."""
        cut(net, Plan.from_json(state["plan"]))
        self.resume(state)

    def resume(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, for a net that has been cut already."""
        self.cuts, self.done = Plan.from_json(state["plan"]).cuts, state["done"]
        self.widths, self.whole = dict(state["widths"]), dict(state["whole"])
        kept = Target(**state["target"]) if state["target"] else None
        if kept and self.target and self.target.kind == "latency_ms" != kept.kind:
            self.target = kept  # milliseconds were turned into a share once
        self.reached = state["settled"] and kept == self.target

    def facts(self) -> Facts:
        """Say what was cut: shares, channels before and after, layers that stayed and why."""
        assert self.net is not None
        after = widths_of(self.net)
        now = _costs(self.net, self.shape)
        changed = {n: [w, after[n]] for n, w in self.widths.items() if w != after[n]}
        return {
            "macs_share": round(now["macs"] / self.whole["macs"], 4),
            "params_share": round(now["params"] / self.whole["params"], 4),
            "channels": changed,
            "kept": dict(self.kept),
            "search": self.report,
        }

    def _measure(self, net: nn.Module) -> None:
        self.widths, self.whole = widths_of(net), _costs(net, self.shape)

    def _free_of_gradients(self) -> Prune:
        """Return the spec with an importance that needs none: only the groups are asked for."""
        return Prune(**{**vars(self.spec), "importance": "group_l2"})

    def _found(self, step: int) -> Found:
        assert self.net is not None
        search = prepare(self.net, self.shape, self.spec, self.seed + step)
        schedule, target = self.spec.schedule, self.target
        if target is None:
            last = step == schedule.last
            return search.cut(None, PRICES["macs"], self.widths) if last else Found(Plan((), ()))
        if target.kind == "latency_ms":
            assert self.meter is not None
            found, tries = to_latency(search, target, self.meter, self.widths)
            self.report["latency"] = [asdict(one) for one in tries]
            if step == schedule.last:
                return found
            self.target = target = Target("macs", self._macs_share(search, found))
        left = 1 - schedule.amount(step, 1 - target.value)
        share, end = (self._share(target.kind, value) for value in (left, target.value))
        none = Found(Plan(self.shape, ()), search.kept)
        if share >= 1:
            return none
        found = search.cut(share, PRICES[target.kind], self.widths)
        early = step < schedule.last and found.facts["share"] < end
        return none if early else found  # a part never takes more than the whole schedule

    def _share(self, kind: str, left: float) -> float:
        """Return ``left`` of the dense net's cost as a share of what the net costs now."""
        assert self.net is not None
        return left * self.whole[kind] / _costs(self.net, self.shape)[kind]

    def _look_ahead(self, net: nn.Module) -> None:
        """Push what will be cut; refuse now what cannot be met at the end of the schedule."""
        search = prepare(net, self.shape, self._free_of_gradients(), self.seed)
        if self.spec.regularize != "none":
            layers = [group.layer for group in search.groups if group.layer not in search.kept]
            self._penalty = regularize.penalty_of(self.spec, net, layers)
        if self.target is not None and self.target.kind != "latency_ms":
            share = self._share(self.target.kind, self.target.value)
            if share < 1:
                search.cut(share, PRICES[self.target.kind], self.widths)

    def _macs_share(self, search: Search, found: Found) -> float:
        twin = copy.deepcopy(search.net)
        found.plan.apply(twin)
        return _costs(twin, self.shape)["macs"] / self.whole["macs"]


def _costs(net: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    layers = count.layers(net, shape).values()
    return {
        "macs": float(sum(layer.macs for layer in layers)),
        "params": float(sum(layer.params for layer in layers)),
    }
