"""The public functions: plain objects in and out, no configuration framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torchopt2edge import report
from torchopt2edge._moved import names_of
from torchopt2edge.errors import ConfigError, contained
from torchopt2edge.interfaces import Stage
from torchopt2edge.report.devices import table as device_table
from torchopt2edge.store import Store, key_of
from torchopt2edge.workflow import comparison, existing_files, multi_device
from torchopt2edge.workflow.float_graph import share_graph
from torchopt2edge.workflow.inputs import (
    Entry,
    Evaluate,
    Labelled,
    data_of,
    history_of,
    resolved,
    sizes_of,
    task_of,
)
from torchopt2edge.workflow.progress import LogProgress, Progress
from torchopt2edge.workflow.result import Result
from torchopt2edge.workflow.run_stages import run_stages
from torchopt2edge.workflow.settings import Settings, SettingsArgs

if TYPE_CHECKING:
    from torch import nn

    from torchopt2edge.compression.pruning.explain import Explanation
    from torchopt2edge.data import DataSet
    from torchopt2edge.stages.torch_export import Examples

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__)


def compare(
    model: nn.Module | str | Path,
    example_inputs: Examples | None = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    **settings: Unpack[SettingsArgs],
) -> Result:
    """Lower one trained model to every backend and scheme, check, score and time the files.

    Args:
        model: an ``nn.Module`` (taken as it is, in eval mode), or the path of a float .onnx.
        example_inputs: one tensor, a tuple of the forward's positional arguments, or a dict of its
            keywords; float32 NCHW for images. Needed for a module, unused for a file.
        calibration: an iterable of inputs: tensors, tuples, dicts or (input, label) pairs, batched
            or not; preprocessed, or raw where ``preprocess`` is given. Needed for int8; the first
            samples are the check's inputs too.
        evaluate: a labelled loader (scored by ``task``: top-1), or a callable
            ``(session) -> {"metric": number}``.
        **settings: see `Settings`.

    Raises:
        EdgeError: nothing could be compared at all; the failure of one candidate is a row.
    """
    entry, data, options = resolved(model, example_inputs, calibration, evaluate, settings)
    return multi_device.run(options, lambda own: comparison.compare([entry], data, own))


def quantize(
    model: nn.Module | str | Path,
    example_inputs: Examples | None = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    **settings: Unpack[SettingsArgs],
) -> Result:
    """Make the files of every backend and scheme, check them, and time none.

    The arguments are those of `compare`; the files lie in ``artifacts`` of the run's folder.

    Raises:
        EdgeError: nothing could be made at all; the failure of one file is a row.
    """
    entry, data, options = resolved(model, example_inputs, calibration, evaluate, settings)
    return multi_device.run(options, lambda own: comparison.lower(entry, data, own))


def optimize(
    stages: Mapping[str, Stage],
    data: DataSet,
    ship: Sequence[str],
    **settings: Unpack[SettingsArgs],
) -> Result:
    """Run the stages (train, distill, prune …), then compare the models named in ``ship``.

    Args:
        stages: the run's stages by name, in order; each names what it needs.
        data: what calibrates (its split ``calibration``) and scores (its split ``test``).
        ship: the stages whose models become candidates; the first one's PyTorch row is the
            reference for accuracy.
        **settings: see `Settings`.

    Raises:
        EdgeError: a stage failed, or nothing could be compared at all.
    """
    from torchopt2edge.data import loader
    from torchopt2edge.stages.export import Export

    given = {"calibration_seed": data.seed, **task_of(stages, ship), **settings}
    options = Settings.of(given).checked()
    exports = {f"export {name}": Export(source=name, data=data) for name in ship}
    missing = [name for name in ship if name not in stages]
    if missing or not ship:
        raise ConfigError(
            f"there is no stage {missing or 'to ship'}", hint=f"ship one of {', '.join(stages)}"
        )
    made = run_stages({**stages, **exports}, options.store, options.progress)
    entries = []
    for name in ship:
        exported = made[f"export {name}"].artifact
        graph = share_graph(
            exported.path / "model.onnx", exported.digest, options.store, data.preprocess
        )
        entries.append(Entry(name, graph, facts=sizes_of(made[name].artifact.facts)))
    calibration = loader(data.split("calibration"), batch_size=32)
    evaluate = Labelled(loader(data.split("test"), batch_size=64), key_of(data, {}))
    taken = data_of(calibration, evaluate, entries[0].graph, None, options)
    history = [history_of(name, one) for name, one in made.items()]
    return multi_device.run(options, lambda own: comparison.compare(entries, taken, own, history))


def explain_cuts(
    stages: Mapping[str, Stage], store: Store | None = None, progress: Progress | None = None
) -> dict[str, Explanation]:
    """Say what every pruning among the stages would cut, by its name; no net is cut.

    What a pruning needs (the net it cuts) is made, or found in the store.

    Raises:
        ConfigError: none of the stages prunes.
    """
    from torchopt2edge.stages.prune import Prune

    named = {name: stage for name, stage in stages.items() if isinstance(stage, Prune)}
    if not named:
        raise ConfigError("no stage of this run prunes", hint="stage=[teacher,student,pruned]")
    found = {}
    for name, stage in named.items():
        before = _before(stages, stage.source)
        made = run_stages(before, store or Store.default(), progress or LogProgress())
        found[name] = stage.explain({"source": made[stage.source].artifact})
    return found


def _before(stages: Mapping[str, Stage], name: str) -> dict[str, Stage]:
    """Return the stage of that name and all that it needs, in order."""
    if name not in stages:
        raise ConfigError(f"there is no stage {name!r}", hint=f"one of {', '.join(stages)}")
    needed = {name}
    for other, stage in reversed(list(stages.items())):
        if other in needed:
            needed |= set(stage.needs.values())
    return {other: stage for other, stage in stages.items() if other in needed}


def bench(artifacts: Sequence[str | Path], **settings: Unpack[SettingsArgs]) -> Result:
    """Measure files that exist (.onnx, .tflite), on random inputs, in turns.

    With nothing to compare with, a file's outputs must be finite and repeat from run to run.

    Raises:
        EdgeError: no file can be measured at all; the failure of one is a row.
    """
    files = [Path(item) for item in artifacts]
    return multi_device.run(
        Settings.of(settings), lambda own: existing_files.measure_files(files, own)
    )


def render(out: str | Path) -> Result:
    """Read a finished run's folder and write its report again.

    Raises:
        ConfigError: it is not the folder of a run.
    """
    folder = Path(out)
    # Whoever edited the folder may have left anything in it.
    with contained("a file of the run holds what no run writes", ConfigError, artifact=folder):
        if device_table.holds(folder):
            return multi_device.render(folder)
        rows, verdict, context = report.read(folder)
        report.write(folder, rows, verdict, **context)
        return Result(rows, verdict, folder)
