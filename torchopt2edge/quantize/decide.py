"""Decide how a float graph is quantized: its ranges, what is done to it before, what stays float.

Everything is judged on calibration data alone, in one simulation of both runtimes, so that the
decision is the same for every backend:

D1. The calibrator is the one named, or with ``auto`` the observer whose ranges keep the outputs
    closest to the float ones (signal-to-quantization-noise ratio, SQNR). Where there is no float
    output to compare it is `UNSEEN`.
D2. Equalization and bias correction are applied when asked for. With ``auto`` equalization is
    tried when the SQNR is below ``poor_db``, and bias correction, which walks the graph layer by
    layer and takes far longer, below half of that; what raises it by ``GAIN_DB`` or more is kept.
    Of the two ways to equalize the better is taken.
D3. Ranges that training learned are never replaced: only tensors that it did not observe are
    calibrated, and the graph, whose weights are on their trained grid, is left alone.
D4. Operators named in ``exclude`` stay in float. With ``max_drop`` so do, besides, those that
    cost most, as few MACs as suffice.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.histogram import OBSERVERS
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Facts, Ranges

if TYPE_CHECKING:
    from torchopt2edge.quantize.fake_quant import Simulation
    from torchopt2edge.quantize.sensitivity import Sensitivity

Tick = Callable[[int, int, str], None]


class Judge(Protocol):
    """What a graph that is partly in float is judged by: `quantize.validation.Validation`."""

    @property
    def samples(self) -> Samples:
        """The samples that it answers for."""

    @property
    def metric(self) -> str:
        """What a drop is measured in."""

    def drop(self, ranges: Ranges) -> float:
        """Return how much worse the graph answers when it is quantized with these ranges."""


Judging = Callable[[Path], Judge]
"""Makes the judge of a graph."""
AUTO = tuple(name for name in OBSERVERS if name != "ema")  # ema depends on the samples' order
UNSEEN = "mse"
GAIN_DB = 0.5
SIMULATED = 32
RANKED = 8


@dataclass(frozen=True)
class State:
    """A graph with its ranges, how well it does, and what led there."""

    graph: Path
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
    """Write ``ranges.json`` and ``decision.json`` into ``out``; return the decision.

    ``model.onnx`` is written too when the graph itself was changed (D2); ``ranges.json`` is then
    of that graph. ``judging`` makes what D4 is judged by, and is there when ``options.max_drop``
    is.
    """
    from torchopt2edge.quantize.graph.lint import lint

    options.check()
    tick(0, 4, "ranges")
    if learned is None:
        state = _tuned(_calibrated(graph, samples, options), samples, options, out, graph)
    else:
        state = _completed(graph, samples, learned)
    state = _without(state, options.exclude)
    facts: Facts = {
        "origin": state.ranges.origin,
        "sqnr_db": state.sqnr_db,
        **state.facts,
        "excluded": list(state.ranges.excluded),
        "instability": state.ranges.facts.get("instability"),
        "lints": [asdict(found) for found in lint(state.graph, state.ranges)],
    }
    if options.sensitivity or options.max_drop is not None:
        tick(2, 4, "sensitivity")
        ranking, facts["ranked_db"] = _ranking(state, samples)
        facts["sensitivity"] = [one.to_json() for one in ranking]
        if options.max_drop is not None:
            tick(3, 4, "mixed precision")
            assert judging is not None
            judge = judging(state.graph)
            state, facts["mixed"] = _mixed(state, ranking, options.max_drop, judge, out)
    _write(out / "ranges.json", state.ranges.to_json())
    _write(out / "decision.json", facts)
    return facts


def _calibrated(graph: Path, samples: Samples, options: Quantize) -> State:
    """D1, with the ranges already as both runtimes can hold them (`concat_ranges`)."""
    from torchopt2edge.quantize.calibrate import calibrate
    from torchopt2edge.quantize.select_observer import choose

    named, why = options.observer, "asked for"
    simulated = _simulated(graph, samples)
    if named == "auto" and simulated is None:
        named, why = UNSEEN, "the graph has no float output by which to choose"
    found = _joined(graph, calibrate(graph, samples, AUTO if named == "auto" else (named,)))
    if named != "auto":
        sqnr = None if simulated is None else simulated.sqnr(found[named])
        return State(graph, found[named], sqnr, {"calibrator": named, "why": why})
    assert simulated is not None
    choice = choose(simulated, found)
    tried = {name: round(value, 2) for name, value in choice.sqnr_db.items()}
    facts = {"calibrator": choice.name, "why": choice.why, "sqnr_by_calibrator": tried}
    return State(graph, found[choice.name], choice.sqnr_db[choice.name], facts)


def _simulated(graph: Path, samples: Samples) -> Simulation | None:
    """Return the simulation of the graph, None when no output of it is float."""
    import onnx

    from torchopt2edge.quantize.fake_quant import simulation

    outputs = onnx.load(graph).graph.output
    if not any(v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for v in outputs):
        return None
    return simulation(graph, samples, SIMULATED)


def _joined(graph: Path, found: Mapping[str, Ranges]) -> dict[str, Ranges]:
    import onnx

    from torchopt2edge.quantize.concat_ranges import join_ranges

    proto = onnx.load(graph)
    return {
        name: replace(ranges, bounds=join_ranges(proto, ranges.bounds))
        for name, ranges in found.items()
    }


def _tuned(state: State, samples: Samples, options: Quantize, out: Path, source: Path) -> State:
    """D2: equalize first, since the bias is corrected for the ranges that are then used."""
    from torchopt2edge.quantize.bias_correction import correct_bias
    from torchopt2edge.quantize.equalization import equalize

    def equalized(now: State) -> Iterator[State]:
        for by, given in (("weights", None), ("weights and activations", samples)):
            file = out / f"equalized by {by}.onnx"
            found = equalize(now.graph, file, given)
            if found["pairs"]:
                there = _calibrated(file, samples, options)
                yield replace(there, facts={**there.facts, "equalize": {"by": by, **found}})

    def corrected(now: State) -> Iterator[State]:
        file = out / "corrected.onnx"
        found = correct_bias(now.graph, now.ranges, samples, file)
        there = replace(now, graph=file, facts={**now.facts, "bias_correction": found})
        yield replace(there, sqnr_db=_sqnr(there, samples, source))

    for name, wanted, poor, step in (
        ("equalize", options.equalize, options.poor_db, equalized),
        ("bias_correction", options.bias_correction, options.poor_db / 2, corrected),
    ):
        before = state.sqnr_db
        if wanted is False or before is None or (wanted == "auto" and before >= poor):
            continue
        best = max(step(state), key=lambda one: one.sqnr_db or 0.0, default=None)
        if best is None:
            continue
        assert best.sqnr_db is not None
        if wanted is True or best.sqnr_db - before >= GAIN_DB:
            state = best
        else:
            said = f"tried: {best.sqnr_db:.1f} dB, not kept"
            state = replace(state, facts={**state.facts, name: said})
    return _settled(state, out, source)


def _settled(state: State, out: Path, source: Path) -> State:
    """Give the graph that was kept its name; forget those that were not."""
    if state.graph != source:
        state = replace(state, graph=state.graph.rename(out / "model.onnx"))
    for left in set(out.glob("*.onnx")) - {state.graph}:
        left.unlink()
    return state


def _sqnr(state: State, samples: Samples, source: Path) -> float:
    """Hold the quantized changed graph against the float outputs of the source."""
    from torchopt2edge.quantize.fake_quant import simulation

    return simulation(state.graph, samples, SIMULATED, reference=source).sqnr(state.ranges)


def _completed(graph: Path, samples: Samples, learned: Ranges) -> State:
    """D3."""
    from torchopt2edge.quantize.calibrate import calibrate
    from torchopt2edge.quantize.qat_ranges import merge

    rest = _joined(graph, calibrate(graph, samples, ("minmax",)))["minmax"]
    ranges = merge(learned, rest)
    simulated = _simulated(graph, samples)
    sqnr = None if simulated is None else simulated.sqnr(ranges)
    facts = {"calibrator": "qat", "why": "learned in training", **ranges.facts}
    return State(graph, ranges, sqnr, facts)


def _without(state: State, patterns: tuple[str, ...]) -> State:
    """D4, what was named by hand."""
    import onnx

    if not patterns:
        return state
    names = [node.name for node in onnx.load(state.graph).graph.node]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, 3)
            raise ConfigError(
                f"no node of the graph is called {pattern!r}",
                artifact=state.graph,
                hint=f"quantize.exclude= for instance {near or names[:3]}",
            )
    found = tuple(n for n in names if any(fnmatch.fnmatch(n, one) for one in patterns))
    return replace(state, ranges=replace(state.ranges, excluded=found))


def _ranking(state: State, samples: Samples) -> tuple[list[Sensitivity], float]:
    """Rank the operators; beside them, on the same samples, the SQNR with all of them in int8."""
    import onnx

    from torchopt2edge.quantize.fake_quant import simulation
    from torchopt2edge.quantize.graph.macs import macs_of
    from torchopt2edge.quantize.sensitivity import rank

    macs = macs_of(onnx.load(state.graph))
    simulated = simulation(state.graph, samples, RANKED)
    return rank(simulated, state.ranges, macs), simulated.sqnr(state.ranges)


def _mixed(
    state: State, ranking: list[Sensitivity], max_drop: float, judge: Judge, out: Path
) -> tuple[State, Facts]:
    """D4; the trail of evaluations outlives a killed run beside the store's temporary folder."""
    from torchopt2edge.quantize.mixed_precision import search

    named = state.ranges.excluded

    def drop_of(excluded: tuple[str, ...]) -> float:
        return judge.drop(replace(state.ranges, excluded=(*named, *excluded)))

    trail = out.parent / f"{out.name.split('-')[0]}.trail.json"
    found = search(ranking, drop_of, max_drop, trail=trail)
    trail.unlink(missing_ok=True)
    manifest = judge.samples.manifest
    facts = {
        **asdict(found),
        "metric": judge.metric,
        "max_drop": max_drop,
        "judged_on": f"{len(manifest.hashes)} {manifest.split} samples",
    }
    return replace(state, ranges=replace(state.ranges, excluded=(*named, *found.excluded))), facts


def _write(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data, indent=1))
