"""The nouns of the project: plain data that crosses from one room to another.

Standard library only (numpy appears in annotations alone), so that a device without torch can
import it. Everything that is written to disk has ``to_json`` and ``from_json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from torchopt2edge.store import Store

    Arrays = Mapping[str, "np.ndarray[Any, Any]"]

Facts = dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """An immutable folder in the store.

    ``digest`` is the sha256 over its files' names and bytes; ``facts`` is what its stage said
    of it (parameters, MACs, metric), JSON all the way down.
    """

    kind: str
    path: Path
    digest: str
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: how the source model names it and how the file holds it.

    ``shape`` and ``dtype`` are the source model's (NCHW for an image model); a symbolic or free
    dimension is -1. ``perm`` takes the source's axes to the file's (``(0, 2, 3, 1)`` for a file
    in NHWC), None when they are the same. ``scale`` and ``zero_point`` are set when the file
    holds integers there.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    file_name: str = ""
    file_dtype: str = ""
    perm: tuple[int, ...] | None = None
    scale: float | None = None
    zero_point: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read what ``dataclasses.asdict`` wrote."""
        perm = data.get("perm")
        return cls(
            **{
                **data,
                "shape": tuple(data["shape"]),
                "perm": None if perm is None else tuple(perm),
            }
        )


@dataclass(frozen=True)
class Signature:
    """The contract of a file: its inputs and outputs, in order, in the source model's terms."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``signature.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """Read what ``to_json`` wrote."""
        return cls(
            tuple(TensorSpec.from_json(spec) for spec in data["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in data["outputs"]),
        )


@dataclass(frozen=True)
class Scheme:
    """A decodable name for a numeric format.

    ``min_sqnr_db`` and ``min_agreement`` are the floors below which `verify` calls the candidate
    broken rather than merely lossy: signal-to-quantization-noise ratio in dB at the output, and
    the share of samples whose arg-max is the reference's.
    """

    name: str
    weights: str
    activations: str
    min_sqnr_db: float
    min_agreement: float

    @property
    def needs_ranges(self) -> bool:
        """Whether lowering to it takes activation ranges, hence calibration data."""
        return self.activations.startswith("int")


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "float32", "float32", 60.0, 0.99),
        Scheme("int8", "int8", "int8", 3.0, 0.2),
    )
}


@dataclass(frozen=True)
class Manifest:
    """Which samples made the ranges: one sha256 per sample, and where they came from."""

    split: str
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Ranges:
    """Activation ranges by tensor name of the float ONNX: one decision for every backend.

    ``bounds`` maps a tensor to (min, max) in real units; ``origin`` says how they were found
    (``calibrated:minmax``); ``excluded`` names the ONNX nodes that stay in float.
    """

    bounds: Mapping[str, tuple[float, float]]
    origin: str
    manifest: Manifest
    excluded: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``ranges.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ranges:
        """Read what ``to_json`` wrote."""
        manifest = Manifest(data["manifest"]["split"], tuple(data["manifest"]["hashes"]))
        bounds = {name: (low, high) for name, (low, high) in data["bounds"].items()}
        return cls(bounds, data["origin"], manifest, tuple(data["excluded"]))


@dataclass(frozen=True)
class Candidate:
    """One file that could be shipped, and how to open it.

    ``id`` holds backend and scheme (``ort-int8``), behind the name of the model when a run has
    several (``pruned-ort-int8``). ``group`` is that name, or "".
    """

    id: str
    backend: str
    scheme: str
    file: Path
    signature: Signature
    digest: str
    facts: Facts = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Measurement:
    """One row: what was measured of one candidate on one device under one protocol.

    ``metrics`` holds plain numbers (``latency_ms``, ``size_mb``, ``memory_mb``, ``top1``,
    ``sqnr_db`` …; a share or an accuracy is in per cent); what could not be measured is absent,
    never 0. ``latency_ns`` holds every sample, one list per round. ``facts`` is the receipt:
    versions, digest, threads, affinity, load, validity flags. A failure is a row with ``err``.
    """

    candidate: str
    backend: str
    scheme: str
    device: str = ""
    protocol: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    latency_ns: list[list[int]] = field(default_factory=list)
    facts: Facts = field(default_factory=dict)
    err: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept one per line in ``rows.jsonl``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Read what ``to_json`` wrote."""
        return cls(**data)


@dataclass(frozen=True)
class Constraints:
    """What a file must hold to be shipped at all; None does not constrain.

    ``max_drop`` is in points of the task metric against the reference row.
    """

    max_drop: float | None = 1.0
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    max_memory_mb: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Which file to ship, by how much, or that nobody can tell.

    ``winner`` is a candidate's id or None; ``tie`` the ids that cannot be told apart from the
    fastest (empty when there is a winner); ``ratios`` maps each measured candidate to
    (ratio, low, high) of its latency to the winner's (to the first of the tie's when tied);
    ``rejected`` says why a candidate was out of the race; ``reasons`` are sentences.
    """

    winner: str | None
    tie: tuple[str, ...] = ()
    ratios: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    pareto: tuple[str, ...] = ()
    rejected: dict[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``verdict.json``."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """Read what ``to_json`` wrote."""
        ratios = {key: (r[0], r[1], r[2]) for key, r in data["ratios"].items()}
        rest = {k: v for k, v in data.items() if k not in ("schema", "ratios", "tie", "pareto")}
        return cls(ratios=ratios, tie=tuple(data["tie"]), pareto=tuple(data["pareto"]), **rest)


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
    def suffix(self) -> str:
        """How the names of its files end, such as ``.onnx``."""

    def for_target(self, facts: Facts) -> Backend:
        """Return the backend as the device with these facts wants it (its instruction set)."""

    def base(self, graph: Artifact, store: Store) -> Artifact:
        """Make, once per model, what every scheme is lowered from."""

    def lower(self, sources: Sources, scheme: Scheme, out: Path) -> Facts:
        """Write the file and ``signature.json`` into ``out``; facts name the file in ``file``."""

    def read_signature(self, file: Path) -> Signature:
        """Read the signature that the file itself declares."""

    def read_scheme(self, file: Path) -> str:
        """Read off the file whether it computes in integers (``int8``) or not (``fp32``)."""

    def open(self, file: Path, signature: Signature, threads: int) -> TimedSession:
        """Open the file with that many intra-op threads."""

    def receipt(self) -> Facts:
        """Name the runtime, its version and the options that are pinned."""


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

    def facts(self) -> Facts:
        """Say what the machine is and how busy it is now; what cannot be read is "unavailable"."""

    def push(self, file: Path) -> str:
        """Bring a file there and return its path there."""

    def start(self, argv: Sequence[str], log: Path) -> Job:
        """Start a process there; its stderr goes to ``log`` here."""
