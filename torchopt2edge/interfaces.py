"""Interfaces: what a session, a stage, a backend and a device must offer.

Standard library only (numpy appears in annotations alone), as in `types`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torchopt2edge.types import Artifact, Facts, Ranges, Scheme, Signature

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import nn

    Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class Session(Protocol):
    """An opened file: arrays in, arrays out, in the source model's names, dtypes and layout."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs' names, in order."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Run on any batch size; a file with a fixed batch is run sample by sample."""


class TimedSession(Session, Protocol):
    """A session that the runner can time without paying for our layout changes.

    ``prepare`` brings arrays into the file's names, dtypes and layout once, outside the clock;
    ``run`` is what is timed: set input, run, read output; ``restore`` undoes ``prepare``.
    """

    def prepare(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Source arrays → the file's arrays."""

    def run(self, prepared: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Set the inputs, run, read the outputs (the file's names and layout)."""

    def restore(self, outputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """The file's arrays → source arrays."""


class ArtifactStore(Protocol):
    """Keeps artifacts by key: `torchopt2edge.store.Store`."""

    def make(self, key: str, kind: str, maker: Callable[[Path], Facts]) -> tuple[Artifact, bool]:
        """Return the artifact and whether it was there; ``maker`` fills a folder if it was not."""


@runtime_checkable
class Stage(Protocol):
    """One step of a run: a frozen dataclass whose fields are its whole configuration.

    ``needs`` maps the role an input plays (``teacher``) to the name of the stage of this run
    that makes it. Calling it fills the empty folder ``out`` and returns the artifact's facts.
    """

    @property
    def kind(self) -> str:
        """The kind of artifact it makes."""

    @property
    def needs(self) -> Mapping[str, str]:
        """Role → name of the stage that makes it."""

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Fill ``out`` and return facts."""


@dataclass(frozen=True)
class Sources:
    """What a backend lowers from.

    ``graph`` is the shared float graph (``model.onnx``, ``signature.json``, perhaps
    ``model.pt2``); ``base`` what the backend itself made of it once; ``ranges`` and ``samples``
    (a folder with one ``<i>.npy`` of shape [count, …] per input) are there for schemes that
    take calibration.
    """

    graph: Artifact
    base: Artifact
    ranges: Ranges | None = None
    samples: Path | None = None

    @cached_property
    def model(self) -> ModelProto:
        """The shared float graph, loaded once for all schemes. Who changes it makes a copy."""
        import onnx

        return onnx.load(self.graph.path / "model.onnx")


@runtime_checkable
class Backend(Protocol):
    """One runtime: makes its file from the float ONNX and opens it.

    A frozen dataclass: its fields enter the candidate's identity.
    """

    @property
    def name(self) -> str:
        """The word in candidate ids and in ``backends=``."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes it takes."""

    @property
    def tools(self) -> tuple[str, ...]:
        """The packages whose versions decide what it makes."""

    @property
    def runtime_module(self) -> str:
        """The module whose import loads the runtime."""

    @property
    def library(self) -> str:
        """``package/path/pattern`` of the shared library that this import loads, or ""."""

    @property
    def suffix(self) -> str:
        """How the names of its files end, such as ``.onnx``."""

    def for_target(self, facts: Facts) -> Backend:
        """Return the backend as the device with these facts wants it (its instruction set)."""

    def base(self, graph: Artifact, store: ArtifactStore) -> Artifact:
        """Make, once per model, what every scheme is lowered from."""

    def lower(self, sources: Sources, scheme: Scheme, out: Path) -> Facts:
        """Write the file and ``signature.json`` into ``out``; facts name the file in ``file``."""

    def read_signature(self, file: Path) -> Signature:
        """Read the signature that the file itself declares."""

    def read_scheme(self, file: Path) -> str:
        """Read off the file whether it computes in integers (``int8``) or not (``fp32``)."""

    def read_facts(self, file: Path) -> Facts:
        """Read back what the file really holds: operators, integer MACs, what stays outside."""

    def open(self, file: Path, signature: Signature, threads: int) -> TimedSession:
        """Open the file with that many intra-op threads."""

    def profile(self, file: Path, threads: int, arrays: Arrays, runs: int) -> list[Facts]:
        """Return ``{name, type, ms}`` of every operator; [] where there is no profiler."""

    def receipt(self) -> Facts:
        """Name the runtime, its version and the options that are pinned."""


@runtime_checkable
class Converting(Protocol):
    """A backend whose files are made from a converted float file."""

    def parting(self, graph: Artifact, base: Artifact, samples: Path) -> str:
        """Say at which operator the converted file parts from the graph; "" if it does not.

        ``samples`` is a folder as in `Sources`.
        """


@dataclass(frozen=True)
class Profile:
    """Where the milliseconds of one inference go: by layer of the PyTorch net, and the rest."""

    layers: Mapping[str, float]
    rest: float


class Meter(Protocol):
    """Measures how fast a net's files are: what a search by latency asks.

    A frozen dataclass; ``where`` is a backend and a scheme (``ort-int8``), ``shape`` one sample's.
    """

    def profile(self, net: nn.Module, shape: tuple[int, ...], where: str) -> Profile:
        """Return the time of each layer, in milliseconds."""

    def measure(
        self, net: nn.Module, shape: tuple[int, ...], where: str
    ) -> tuple[float, float, float]:
        """Return the latency in milliseconds and its 95 % interval."""


class Job(Protocol):
    """A process on a device that we talk to in frames (`frames`); closing it leaves nothing."""

    def send(
        self, header: Mapping[str, Any], arrays: Arrays | None = None, timeout_s: float = 60.0
    ) -> None:
        """Send one frame."""

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Return the next frame; the job is killed when none comes in time."""

    def close(self) -> None:
        """End the process and all that it started; harmless when called again."""


class Device(Protocol):
    """A machine that runs candidates: a frozen dataclass whose constructor touches nothing."""

    @property
    def name(self) -> str:
        """The word in the rows' ``device``."""

    @property
    def threads(self) -> int:
        """Intra-op threads of every session opened there."""

    @property
    def python(self) -> str:
        """The interpreter there that runs our runner."""

    @property
    def runner(self) -> str:
        """Which runner measures there: ``python`` or ``native``; never both in one comparison."""

    def facts(self) -> Facts:
        """Say what the machine is and how busy it is now; what cannot be read is "unavailable"."""

    def push(self, file: Path) -> str:
        """Bring a file there and return its path there."""

    def start(self, argv: Sequence[str], log: Path) -> Job:
        """Start a process there; its stderr goes to ``log`` here."""


class Watch(Protocol):
    """What a device shows of its heat, clocks and power while it is kept steady."""

    def facts(self) -> Facts:
        """Say what was set on the device for the time of the measurement."""

    def sense(self) -> Facts:
        """Return what its sensors show now; {} when that cannot be had."""

    def moments(self) -> list[tuple[float, Facts]]:
        """Return all that they showed, each with its time by this machine's ``monotonic``, in s."""


@runtime_checkable
class Steady(Protocol):
    """A device that can be kept steady while it is measured, and shows what it does meanwhile."""

    def steady(self) -> AbstractContextManager[Watch | None]:
        """Set what keeps it steady until the block ends, however it ends; None: nothing to set."""
