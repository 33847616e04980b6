"""The whole road as plain functions: no configuration framework, plain objects in and out."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from torchopt2edge import report
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.errors import ConfigError, ModelError, NoSamples
from torchopt2edge.interfaces import Backend, Device, Session, Stage
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.quantize.graph.prepare import content_digest
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.report.devices import table as device_table
from torchopt2edge.store import Store, identity, key_of, versions
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Artifact, Constraints, Facts
from torchopt2edge.workflow import calibration as calibrating
from torchopt2edge.workflow import comparison as run
from torchopt2edge.workflow import existing_files, lowering, multi_device
from torchopt2edge.workflow.multi_device import Result as Result
from torchopt2edge.workflow.progress import LogProgress, Progress
from torchopt2edge.workflow.settings import Data, Entry, Labelled, Plan, resolve_backends

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchopt2edge.bench.timing import Protocol
    from torchopt2edge.compression.pruning.explain import Explanation
    from torchopt2edge.data import DataSet

Evaluate = Callable[[Session], dict[str, float]] | Iterable[Any]


class SettingsArgs(TypedDict, total=False):
    """The keywords that every function of this module takes; see `Settings`."""

    backends: Sequence[str | Backend]
    schemes: Sequence[str]
    device: Device
    devices: Sequence[Device]
    protocol: str | Protocol
    out: str | Path
    constraints: Constraints
    baseline: bool
    calibration_samples: int
    calibration_seed: int | None
    quantize: Quantize
    task: Task
    evaluate_samples: int | None
    bench: Bench
    preprocess: Preprocess
    store: Store
    progress: Progress
    title: str
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a comparison is made.

    ``backends`` are names or objects, ``schemes`` names; ``devices`` are several in place of
    ``device``, each with a run in a folder of its own under ``out``; ``protocol`` is ``smoke``,
    ``quick``, ``standard``, ``sustained`` or an object; ``out`` the run's folder; ``baseline`` adds
    PyTorch's own row where there is a module. At most ``calibration_samples`` are taken from the
    calibration set (``calibration_seed`` is what they were drawn with, for the manifest);
    ``quantize`` says how ranges are found on them, ``task`` what a labelled loader is scored by and
    ``evaluate_samples`` on how many of it at most (None: all; on another machine 1000), ``bench``
    which threads and cores are tried and what else is looked at. ``preprocess`` is what makes the
    model's input of a raw image, for loaders that yield raw images. ``store`` and ``progress``
    default to the user's cache and to log lines. ``title`` stands above the report, what
    ``environment`` holds below it (``command``: how to run it again).
    """

    backends: Sequence[str | Backend] = ("ort", "litert")
    schemes: Sequence[str] = ("fp32", "int8")
    device: Device | None = None
    devices: Sequence[Device] = ()
    protocol: str | Protocol = "quick"
    out: str | Path = "outputs/run"
    constraints: Constraints = field(default_factory=Constraints)
    baseline: bool = True
    calibration_samples: int = 256
    calibration_seed: int | None = None
    quantize: Quantize = field(default_factory=Quantize)
    task: Task = field(default_factory=Classification)
    evaluate_samples: int | None = None
    bench: Bench = field(default_factory=Bench)
    preprocess: Preprocess | None = None
    store: Store = field(default_factory=Store.default)
    progress: Progress = field(default_factory=LogProgress)
    title: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Build from keywords.

        Raises:
            ConfigError: a keyword is unknown; names the nearest.
        """
        known = [item.name for item in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(
                    f"there is no setting {name!r}",
                    hint=f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}",
                )
        return cls(**given)

    def run(self, act: multi_device.Act) -> Result:
        """Do something by the plan, on each of the devices where there are several."""
        return multi_device.run(tuple(self.devices), Path(self.out), self.title, self.plan, act)

    def plan(self, device: Device | None = None, out: Path | None = None) -> Plan:
        """Resolve names into objects, for another device in another folder where they are given.

        Raises:
            ConfigError: an unknown backend or protocol; names those there are.
        """
        from torchopt2edge import devices
        from torchopt2edge.bench import timing as protocol

        device = device or (None if self.devices else self.device) or devices.Local()
        facts = device.facts()
        named = self.protocol if not isinstance(self.protocol, str) else None
        return Plan(
            backends=tuple(
                backend.for_target(facts) for backend in resolve_backends(self.backends)
            ),
            schemes=tuple(self.schemes),
            device=device,
            protocol=named or protocol.by_name(str(self.protocol)),
            out=out or Path(self.out),
            constraints=self.constraints,
            baseline=self.baseline,
            store=self.store,
            progress=self.progress,
            quantize=self.quantize,
            task=self.task,
            evaluate_samples=self.evaluate_samples,
            bench=self.bench,
            title=self.title,
            environment=self.environment,
        )


def compare(
    model: nn.Module | str | Path,
    example_inputs: tuple[Tensor, ...] | None = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    **settings: Unpack[SettingsArgs],
) -> Result:
    """Lower one trained model to every backend and scheme, check, score and time the files.

    Args:
        model: an ``nn.Module`` (taken as it is, in eval mode), or the path of a float .onnx.
        example_inputs: the forward's positional arguments, float32 NCHW for images; needed for a
            module, unused for a file.
        calibration: an iterable of inputs: tensors, tuples, dicts or (input, label) pairs, batched
            or not; preprocessed, or raw where ``preprocess`` is given. Needed for int8; the first
            samples are the check's inputs too.
        evaluate: a labelled loader (scored by ``task``: top-1), or a callable
            ``(session) -> {"metric": number}``.
        **settings: see `Settings`.

    Raises:
        EdgeError: nothing could be compared at all; the failure of one candidate is a row.
    """
    entry, data, options = _resolved(model, example_inputs, calibration, evaluate, settings)
    return options.run(lambda plan: run.compare([entry], data, plan))


def lower(
    model: nn.Module | str | Path,
    example_inputs: tuple[Tensor, ...] | None = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    **settings: Unpack[SettingsArgs],
) -> Result:
    """Make the files of every backend and scheme, check them, and time none.

    The arguments are those of `compare`; the files lie in ``artifacts`` of the run's folder.

    Raises:
        EdgeError: nothing could be made at all; the failure of one file is a row.
    """
    entry, data, options = _resolved(model, example_inputs, calibration, evaluate, settings)
    return options.run(lambda plan: run.lower(entry, data, plan))


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

    given = {"calibration_seed": data.seed, **_task_of(stages, ship), **settings}
    options = Settings.of(given)
    plan = options.plan()
    exports = {f"export {name}": Export(source=name, data=data) for name in ship}
    missing = [name for name in ship if name not in stages]
    if missing or not ship:
        raise ConfigError(
            f"there is no stage {missing or 'to ship'}", hint=f"ship one of {', '.join(stages)}"
        )
    made = lowering.run_stages({**stages, **exports}, plan.store, plan.progress)
    entries = []
    for name in ship:
        exported = made[f"export {name}"].artifact
        graph = lowering.share_graph(
            exported.path / "model.onnx", exported.digest, plan.store, data.preprocess
        )
        entries.append(Entry(name, graph, facts=_size(made[name].artifact.facts)))
    calibration = loader(data.split("calibration"), batch_size=32)
    seen = hashlib.sha256(json.dumps(identity(data), sort_keys=True).encode()).hexdigest()
    evaluate = Labelled(loader(data.split("test"), batch_size=64), seen)
    taken = _data(calibration, evaluate, entries[0].graph, None, options)
    history = [_history(name, one) for name, one in made.items()]
    return options.run(lambda each: run.compare(entries, taken, each, history))


def _task_of(stages: Mapping[str, Stage], ship: Sequence[str]) -> dict[str, Task]:
    """Return the task of the first shipped stage that has one: what its files are scored by."""
    found = (getattr(stages[name], "task", None) for name in ship if name in stages)
    task = next((one for one in found if one is not None), None)
    return {} if task is None else {"task": task}


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
        made = lowering.run_stages(before, store or Store.default(), progress or LogProgress())
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


def measure(artifacts: Sequence[str | Path], **settings: Unpack[SettingsArgs]) -> Result:
    """Measure files that exist (.onnx, .tflite), on random inputs, in turns.

    With nothing to compare with, a file's outputs must be finite and repeat from run to run.

    Raises:
        EdgeError: no file can be measured at all; the failure of one is a row.
    """
    files = [Path(item) for item in artifacts]
    return Settings.of(settings).run(lambda plan: existing_files.measure_files(files, plan))


def render(out: str | Path) -> Result:
    """Read a finished run's folder and write its report again.

    Raises:
        ConfigError: it is not the folder of a run.
    """
    folder = Path(out)
    if device_table.holds(folder):
        return multi_device.render(folder)
    rows, verdict, context = report.read(folder)
    report.write(folder, rows, verdict, **context)
    return Result(rows, verdict, folder)


def _resolved(
    model: nn.Module | str | Path,
    example_inputs: tuple[Tensor, ...] | None,
    calibration: Iterable[Any] | None,
    evaluate: Evaluate | None,
    settings: SettingsArgs,
) -> tuple[Entry, Data, Settings]:
    """Put one model on the hub and keep its calibration samples."""
    options = Settings.of(settings)
    plan = options.plan()  # a wrong name is told before anything is made
    entry = Entry("", _graph(model, example_inputs, plan, options.preprocess))
    data = _data(calibration, evaluate, entry.graph, example_inputs, options)
    return entry, data, options


def _graph(
    model: nn.Module | str | Path,
    example_inputs: tuple[Tensor, ...] | None,
    plan: Plan,
    preprocess: Preprocess | None,
) -> Artifact:
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_file():
            raise ModelError("there is no such file", artifact=path, hint="check model.path")
        return lowering.share_graph(path, content_digest(path), plan.store, preprocess)
    if not example_inputs:
        raise ModelError(
            "a module is exported with example inputs, and there are none",
            hint="compare(model, example_inputs=(torch.randn(1, 3, 224, 224),), …)",
        )
    from torchopt2edge.stages.export import write_export
    from torchopt2edge.stages.torch_export import traced

    with plan.progress.task("export"), traced(model, example_inputs) as trace:
        key = key_of(write_export, {"program": trace.digest}, versions(lowering.STAGE_TOOLS))
        write = partial(write_export, model, trace)
        exported, _ = plan.store.make(key, "onnx", write)
    file = exported.path / "model.onnx"
    return lowering.share_graph(file, exported.digest, plan.store, preprocess)


def _data(
    calibration: Iterable[Any] | None,
    evaluate: Evaluate | None,
    graph: Artifact,
    example_inputs: tuple[Tensor, ...] | None,
    options: Settings,
) -> Data:
    """Keep the calibration samples; without any, the check runs on what there is."""
    if calibration is not None:
        count, store = options.calibration_samples, options.store
        keep = partial(calibrating.keep_samples, calibration, graph, store=store)
        samples = keep(limit=count, split="calibration", seed=options.calibration_seed)
        if options.quantize.max_drop is None:
            return Data(samples, evaluate)
        try:
            limit = options.quantize.validation_samples
            return Data(samples, evaluate, keep(limit=limit, split="validation", skip=count))
        except NoSamples:  # there are no more than those that calibrate
            return Data(samples, evaluate)
    signature = calibrating.signature_in(graph.path)
    given: list[Any] = (
        [tuple(example_inputs)] if example_inputs else existing_files.random_items(signature)
    )
    logging.getLogger("torchopt2edge").warning(
        "no calibration data: the files are checked on %s alone, and int8 cannot be made",
        "the example inputs" if example_inputs else "random inputs",
    )
    samples = calibrating.keep_samples(given, graph, 8, calibrating.EXAMPLE, options.store)
    return Data(samples, evaluate)


def _size(facts: Facts) -> Facts:
    return {name: facts[name] for name in ("params", "macs", "macs_share") if name in facts}


def _history(name: str, made: lowering.Made) -> dict[str, Any]:
    return {
        "name": name,
        "seconds": made.seconds,
        "cached": made.cached,
        "facts": made.artifact.facts,
    }
