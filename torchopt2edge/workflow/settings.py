"""The settings of a run, every name resolved."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torchopt2edge._moved import KEYWORDS, keywords
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.conf import registry
from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Backend, Device
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.store import Store
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Constraints, Facts
from torchopt2edge.workflow.progress import LogProgress, Progress

if TYPE_CHECKING:
    from torchopt2edge.bench.timing import TimingPlan


FAR_SAMPLES = 1000
"""How many samples are scored on another machine where nobody says how many."""


def resolve_backends(wanted: Sequence[str | Backend]) -> tuple[Backend, ...]:
    """Turn names into backends; an object is taken as it is.

    Raises:
        ConfigError: there is no such backend; lists those there are.
    """
    return tuple(registry.build("backend", one) if isinstance(one, str) else one for one in wanted)


def backend_names() -> list[str]:
    """Name the backends that have a yaml in ``conf/backend``."""
    known: list[str] = registry.options("backend")
    return known


class SettingsArgs(TypedDict, total=False):
    """The keywords of the public functions as a user gives them, by name or as objects."""

    backends: Sequence[str | Backend]
    schemes: Sequence[str]
    device: Device
    devices: Sequence[Device]
    timing: str | TimingPlan
    protocol: str | TimingPlan  # the previous name of timing
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
    shapes: Mapping[str, Sequence[int]] | Sequence[int]
    store: Store
    progress: Progress
    title: str
    environment: Mapping[str, Any]


SETTINGS = tuple(name for name in SettingsArgs.__annotations__ if name not in KEYWORDS)
"""The names of the settings that a user may give."""


@dataclass(frozen=True)
class Settings:
    """How a comparison is made: built from a user's keywords by `of`, for one device by `on`.

    Attributes:
        backends: what writes and opens the files.
        timing: how long and how often is timed.
        device: what measures.
        devices: several in place of ``device``, each with a run in a folder of its own below
            ``out``.
        machine: the facts of ``device``, asked once per run (`on`).
        schemes: the numeric formats, by name.
        out: the run's folder.
        constraints: what a file must keep to be chosen.
        baseline: whether PyTorch has a row of its own where there is a module.
        calibration_samples: how many samples are taken from the calibration set at most.
        calibration_seed: what they were drawn with, for the manifest.
        quantize: how ranges are found on them.
        task: what a labelled loader is scored by.
        evaluate_samples: how many samples score a candidate at most; None is all of them on this
            machine, and `FAR_SAMPLES` on another.
        bench: which threads and cores are tried, and what else is measured.
        preprocess: what makes the model's input of a raw image, for loaders that yield raw images.
        shapes: the size of inputs that a model leaves free, by name, or one for its only input;
            where they are not given, those of the calibration samples.
        store: where artifacts are kept; by default the user's cache.
        progress: what is told of each task; by default lines in the log.
        title: what stands above the report.
        environment: what stands below it (``command``: how to run it again).
    """

    backends: tuple[Backend, ...]
    timing: TimingPlan
    device: Device
    devices: tuple[Device, ...] = ()
    machine: Facts = field(default_factory=dict)
    schemes: tuple[str, ...] = ("fp32", "int8")
    out: Path = Path("outputs/run")
    constraints: Constraints = field(default_factory=Constraints)
    baseline: bool = True
    calibration_samples: int = 256
    calibration_seed: int | None = None
    quantize: Quantize = field(default_factory=Quantize)
    task: Task = field(default_factory=Classification)
    evaluate_samples: int | None = None
    bench: Bench = field(default_factory=Bench)
    preprocess: Preprocess | None = None
    shapes: Mapping[str, Sequence[int]] | Sequence[int] = field(default_factory=dict)
    store: Store = field(default_factory=Store.default)
    progress: Progress = field(default_factory=LogProgress)
    title: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Build from keywords, with names of backends and timing presets as objects.

        Raises:
            ConfigError: a keyword, a backend or a timing preset is unknown; names the nearest.
        """
        from torchopt2edge import devices
        from torchopt2edge.bench import timing

        given = keywords(given, SETTINGS)
        _check_known(given)
        plan = given.get("timing", "quick")
        several = tuple(given.get("devices", ()))
        built = {
            "backends": resolve_backends(given.get("backends", ("ort", "litert"))),
            "timing": timing.by_name(plan) if isinstance(plan, str) else plan,
            "device": (None if several else given.get("device")) or devices.Local(),
            "devices": several,
            "schemes": tuple(given.get("schemes", cls.schemes)),
            "out": Path(given.get("out", cls.out)),
        }
        return cls(**{**given, **built})

    def checked(self) -> Settings:
        """Return the settings after their device was asked, before anything slow is begun.

        Of several devices one that does not answer is a column of the report, so none is asked.
        """
        return self if self.devices else self.on()

    def on(self, device: Device | None = None, out: Path | None = None) -> Settings:
        """Return the settings of a run on one device: it is asked what it is, unless it was.

        Args:
            device: another device than `device`.
            out: another folder than `out`.
        """
        same = device is None or device is self.device
        device = device or self.device
        machine = self.machine if same and self.machine else device.facts()
        backends = tuple(backend.for_target(machine) for backend in self.backends)
        return replace(
            self,
            backends=backends,
            device=device,
            devices=(),
            machine=machine,
            out=out or self.out,
        )


def _check_known(given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, [*SETTINGS, *KEYWORDS], 1)
            meant = KEYWORDS.get(near[0], near[0]) if near else ""
            raise ConfigError(
                f"there is no setting {name!r}",
                hint=f"did you mean {meant}?" if near else f"one of {', '.join(SETTINGS)}",
            )
