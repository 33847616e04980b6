"""Decide how a float graph is quantized: its ranges, changes to it before, and what stays float.

Everything is judged on calibration data alone, in one simulation of both runtimes, so that the
decision is the same for every backend:

D1. The observer is the named one. With ``auto`` it is the one whose ranges keep the outputs closest
    to the float ones (signal-to-quantization-noise ratio, SQNR), or `UNMEASURED` where there is no
    float output to compare.
D2. Equalization and bias correction are applied when they are requested. With ``auto`` equalization
    is tried when the SQNR is below ``poor_db``, and bias correction, which runs the graph layer by
    layer and takes far longer, below half of that. What raises it by `GAIN_DB` or more is kept. Of
    the two ways to equalize the better one is taken.
D3. Ranges that training learned are never replaced. Only tensors that it did not observe are
    calibrated, and the graph, whose weights are as they were trained, is left alone.
D4. Operators named in ``exclude`` stay in float, and everything else is judged with them in float.
    With ``max_drop`` so do those that cost most, as few MACs as suffice.
D5. Where the SQNR stays below ``poor_db``, operators that cost much and weigh little are left in
    float (`repair`), and D2 is tried on that. Of all states the one with the best SQNR is taken, so
    no step can make the file worse than leaving it out.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torchopt2edge.errors import ConfigError, optional
from torchopt2edge.quantize.histogram import OBSERVERS
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.store import work_of
from torchopt2edge.types import Facts, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto

    from torchopt2edge.quantize.fake_quant import Simulation
    from torchopt2edge.quantize.sensitivity import Sensitivity

Tick = Callable[[int, int, str], None]
AUTO = tuple(name for name in OBSERVERS if name != "ema")  # ema depends on the samples' order
UNMEASURED = "mse"
GAIN_DB = 0.5
SIMULATED = 32
RANKED = 8
_NO_OUTPUT = "the graph has no float output by which to choose"


class Judge(Protocol):
    """Judges a graph that is partly in float: `held_out.Validation`."""

    @property
    def samples(self) -> Samples:
        """The samples that it is judged on."""

    @property
    def metric(self) -> str:
        """What a drop is measured in."""

    def drop(self, ranges: Ranges) -> float:
        """Return by how many points the graph is worse when it is quantized with these ranges."""


Ops = tuple[str, ...]
Judging = Callable[["ModelProto"], Judge]
"""Makes the judge of a graph; named here, so that who passes it on refers to no maker."""


@dataclass(frozen=True)
class State:
    """A graph with its ranges, and what led there.

    Attributes:
        proto: the graph, equalized or bias-corrected if that was kept.
        ranges: its ranges.
        sqnr_db: how close its outputs are to the float ones, None without a float output.
        facts: what was tried and why it was kept.
    """

    proto: ModelProto
    ranges: Ranges
    sqnr_db: float | None
    facts: Facts


def decide(
    graph: Path,
    samples: Samples,
    options: Quantize,
    out: Path,
    judging: Judging | None = None,
    learned: Ranges | None = None,
    tick: Tick = lambda done, total, what: None,
) -> Facts:
    """Decide how a graph is quantized.

    Args:
        graph: the prepared float ONNX.
        samples: the calibration samples.
        options: what to try.
        out: the folder to write ``ranges.json`` and ``decision.json`` to, and ``model.onnx`` when
            the graph itself was changed (D2): the ranges are then of that graph.
        judging: makes the judge of a graph for D4; needed with ``options.max_drop``.
        learned: ranges that training learned (D3).
        tick: called with (done, total, what is done) before each step.

    Returns:
        The decision, as in ``decision.json``.

    Raises:
        ConfigError: an option that does not exist, or a name in ``exclude`` that no node has.
        DataError: an activation is NaN or infinite, or ``max_drop`` has nothing to judge.
    """
    import onnx

    options.check()
    tick(0, 4, "ranges")
    source = onnx.load(graph)
    excluded = _named(source, options.exclude, graph)
    if learned is None:
        state = _best(source, samples, options, excluded, tick)
    else:
        state = _completed(source, samples, learned, excluded)
    facts = _described(state)
    if options.sensitivity or options.max_drop is not None:
        tick(2, 4, "sensitivity")
        ranking, facts["ranked_db"] = _ranking(state, samples)
        facts["sensitivity"] = [row.to_json() for row in ranking]
        if options.max_drop is not None:
            tick(3, 4, "mixed precision")
            assert judging is not None
            judge = judging(state.proto)
            state, facts["mixed"] = _mixed(state, ranking, options.max_drop, judge, out)
    if state.proto is not source:
        onnx.save(state.proto, out / "model.onnx")
    _write(out / "ranges.json", state.ranges.to_json())
    _write(out / "decision.json", facts)
    return facts


def _best(
    source: ModelProto, samples: Samples, options: Quantize, excluded: Ops, tick: Tick
) -> State:
    """D1, D2 and D5: of all states on the way the one that is closest to the float model."""
    found = _Calibrations(samples, options)
    first = found.state(source, excluded)
    best = _tuned(first, found)
    if not options.repair or best.sqnr_db is None or best.sqnr_db >= options.poor_db:
        return best
    tick(1, 4, "operators to leave in float")
    notes: list[str] = []
    with optional("leaving operators in float", notes):
        repaired = _repaired(first, found)
        if repaired is not None:
            # Equalization and bias correction are judged on the graph as it will be lowered.
            best = max(best, _tuned(repaired, found), key=lambda state: state.sqnr_db or -math.inf)
    return best if not notes else replace(best, facts={**best.facts, "notes": notes})


def _repaired(state: State, found: _Calibrations) -> State | None:
    """D5: leave operators in float; None where that does not pay."""
    from torchopt2edge.quantize.fake_quant import simulation
    from torchopt2edge.quantize.graph.macs import macs_of
    from torchopt2edge.quantize.repair import repair

    options = found.options
    simulated = simulation(state.proto, found.samples, RANKED)
    made = repair(
        simulated, state.ranges, macs_of(state.proto), options.poor_db, options.repair_macs
    )
    if not made.excluded:
        return None
    again = found.state(state.proto, (*state.ranges.excluded, *made.excluded))
    return replace(again, facts={**again.facts, "repair": made.facts})


def _described(state: State) -> Facts:
    """Return the decision's facts before any search of operators."""
    from torchopt2edge.quantize.graph.lint import lint

    return {
        "origin": state.ranges.origin,
        "sqnr_db": state.sqnr_db,
        **state.facts,
        "excluded": list(state.ranges.excluded),
        "instability": state.ranges.facts.get("instability"),
        "lints": [asdict(finding) for finding in lint(state.proto, state.ranges)],
    }


class _Calibrations:
    """The ranges and the simulation of each graph that is tried, made once.

    Observers see the float graph, so ranges do not depend on what stays in float; which observer
    is best does.
    """

    def __init__(self, samples: Samples, options: Quantize) -> None:
        self.samples, self.options = samples, options
        self._kept: list[tuple[ModelProto, Simulation | None, Mapping[str, Ranges]]] = []

    def state(self, proto: ModelProto, excluded: Ops) -> State:
        """D1, with ranges that both runtimes can represent (`join_ranges`)."""
        from torchopt2edge.quantize.select_observer import select_observer

        _, simulated, found = self._of(proto)
        ranges = {name: replace(each, excluded=excluded) for name, each in found.items()}
        name = self.options.observer
        if name != "auto" or simulated is None:
            why = "asked for" if name != "auto" else _NO_OUTPUT
            name = UNMEASURED if name == "auto" else name
            sqnr = None if simulated is None else simulated.sqnr(ranges[name])
            return State(proto, ranges[name], sqnr, {"calibrator": name, "why": why})
        choice = select_observer(simulated, ranges)
        tried = {name: round(value, 2) for name, value in choice.sqnr_db.items()}
        facts = {"calibrator": choice.name, "why": choice.why, "sqnr_by_calibrator": tried}
        return State(proto, ranges[choice.name], choice.sqnr_db[choice.name], facts)

    def _of(self, proto: ModelProto) -> tuple[ModelProto, Simulation | None, Mapping[str, Ranges]]:
        from torchopt2edge.quantize.calibrate import calibrate

        for kept in self._kept:
            if kept[0] is proto:
                return kept
        simulated, name = _simulated(proto, self.samples), self.options.observer
        observers = AUTO if name == "auto" else (name,)
        ranges = _joined(proto, calibrate(proto, self.samples, observers))
        self._kept.append((proto, simulated, ranges))
        return self._kept[-1]


def _simulated(proto: ModelProto, samples: Samples) -> Simulation | None:
    """Return the simulation of a graph, None when no output of it is float."""
    from onnx import TensorProto

    from torchopt2edge.quantize.fake_quant import simulation

    dtypes = {value.type.tensor_type.elem_type for value in proto.graph.output}
    return simulation(proto, samples, SIMULATED) if TensorProto.FLOAT in dtypes else None


def _joined(proto: ModelProto, ranges: Mapping[str, Ranges]) -> dict[str, Ranges]:
    from torchopt2edge.quantize.concat_ranges import join_ranges

    return {
        name: replace(each, bounds=join_ranges(proto, each.bounds)) for name, each in ranges.items()
    }


def _tuned(state: State, found: _Calibrations) -> State:
    """D2: equalize first, since the biases are corrected for the ranges that are then used."""
    options = found.options
    source = state.proto
    for name, wanted, poor, step in (
        ("equalize", options.equalize, options.poor_db, _equalized),
        ("bias_correction", options.bias_correction, options.poor_db / 2, _corrected),
    ):
        before, notes = state.sqnr_db, list[str]()
        if wanted is False or before is None or (wanted == "auto" and before >= poor):
            continue
        best = None
        with optional(name.replace("_", " "), notes):
            tried = step(state, found, source)
            best = max(tried, key=lambda one: one.sqnr_db or 0.0, default=None)
        if notes:
            state = replace(state, facts={**state.facts, name: notes[0]})
        if best is None or best.sqnr_db is None:
            continue
        if wanted is True or best.sqnr_db - before >= GAIN_DB:
            state = best
        else:
            note = f"tried: {best.sqnr_db:.1f} dB, not kept"
            state = replace(state, facts={**state.facts, name: note})
    return state


def _equalized(now: State, found: _Calibrations, source: ModelProto) -> Iterator[State]:
    """Return the state with its weights equalized, in either way."""
    from torchopt2edge.quantize.equalization import equalize

    for by, given in (("weights", None), ("weights and activations", found.samples)):
        proto, facts = equalize(now.proto, given)
        if facts["pairs"]:
            tried = found.state(proto, now.ranges.excluded)
            kept = {**now.facts, **tried.facts, "equalize": {"by": by, **facts}}
            yield replace(tried, facts=kept)


def _corrected(now: State, found: _Calibrations, source: ModelProto) -> Iterator[State]:
    """Return the state with its biases corrected for its ranges."""
    from torchopt2edge.quantize.bias_correction import correct_bias

    proto, facts = correct_bias(now.proto, now.ranges, found.samples)
    tried = replace(now, proto=proto, facts={**now.facts, "bias_correction": facts})
    yield replace(tried, sqnr_db=_sqnr(tried, found.samples, source))


def _sqnr(state: State, samples: Samples, source: ModelProto) -> float:
    """Return the SQNR of a changed, quantized graph against the float outputs of the source."""
    from torchopt2edge.quantize.fake_quant import simulation

    return simulation(state.proto, samples, SIMULATED, reference=source).sqnr(state.ranges)


def _completed(proto: ModelProto, samples: Samples, learned: Ranges, excluded: Ops) -> State:
    """D3."""
    from torchopt2edge.quantize.calibrate import calibrate
    from torchopt2edge.quantize.qat_ranges import merge

    rest = _joined(proto, calibrate(proto, samples, ("minmax",)))["minmax"]
    ranges = replace(merge(learned, rest), excluded=excluded)
    simulated = _simulated(proto, samples)
    sqnr = None if simulated is None else simulated.sqnr(ranges)
    facts = {"calibrator": "qat", "why": "learned in training", **ranges.facts}
    return State(proto, ranges, sqnr, facts)


def _named(proto: ModelProto, patterns: Ops, graph: Path) -> Ops:
    """D4: return the nodes that are named by hand."""
    names = [node.name for node in proto.graph.node]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, 3)
            raise ConfigError(
                f"no node of the graph is called {pattern!r}",
                artifact=graph,
                hint=f"quantize.exclude= for instance {near or names[:3]}",
            )
    return tuple(n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in patterns))


def _ranking(state: State, samples: Samples) -> tuple[list[Sensitivity], float]:
    """Rank the operators; also return the SQNR with all of them in int8 on the same samples."""
    from torchopt2edge.quantize.fake_quant import simulation
    from torchopt2edge.quantize.graph.macs import macs_of
    from torchopt2edge.quantize.sensitivity import rank

    simulated = simulation(state.proto, samples, RANKED)
    ranking = rank(simulated, state.ranges, macs_of(state.proto))
    return ranking, simulated.sqnr(state.ranges)


def _mixed(
    state: State, ranking: list[Sensitivity], max_drop: float, judge: Judge, out: Path
) -> tuple[State, Facts]:
    """D4; a killed search goes on from its log in the store's work folder."""
    from torchopt2edge.quantize.mixed_precision import search

    named = state.ranges.excluded

    def drop_of(excluded: tuple[str, ...]) -> float:
        return judge.drop(replace(state.ranges, excluded=(*named, *excluded)))

    log = work_of(out) / "mixed_precision.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    result = search(ranking, drop_of, max_drop, log=log)
    manifest = judge.samples.manifest
    facts = {
        **asdict(result),
        "metric": judge.metric,
        "max_drop": max_drop,
        "judged_on": f"{len(manifest.hashes)} {manifest.split} samples",
    }
    excluded = (*named, *result.excluded)
    return replace(state, ranges=replace(state.ranges, excluded=excluded)), facts


def _write(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data, indent=1))
