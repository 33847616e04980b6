"""Plain data that crosses package boundaries: signatures, schemes, ranges, rows, verdicts.

Standard library only (numpy appears in annotations alone), so that a device without torch can
import it. Everything that is written to disk has ``to_json`` and ``from_json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchopt2edge.preprocessing.preprocess import Preprocess

Facts = dict[str, Any]

BASELINE = "torch"
"""The backend whose row is a reference and never a file to ship."""


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
    holds integers there. ``preprocess`` is what makes an input of a raw image, when that is known.
    ``whole`` says that the file's tensor has no axis for the batch: a sample is the whole tensor,
    and the leading 1 of ``shape`` stands for the sample.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    file_name: str = ""
    file_dtype: str = ""
    perm: tuple[int, ...] | None = None
    scale: float | None = None
    zero_point: int | None = None
    preprocess: Preprocess | None = None
    whole: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read what ``dataclasses.asdict`` wrote."""
        perm, before = data.get("perm"), data.get("preprocess")
        return cls(
            **{
                **data,
                "shape": tuple(data["shape"]),
                "perm": None if perm is None else tuple(perm),
                "preprocess": None if before is None else Preprocess.from_json(before),
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
    the share of samples whose arg-max is the reference's. ``io`` is the type of the file's inputs
    and outputs; ``activations`` is ``dynamic`` when their ranges are found at run time.
    """

    name: str
    weights: str
    activations: str
    min_sqnr_db: float = field(metadata={"identity": False})  # no file depends on a floor
    min_agreement: float = field(metadata={"identity": False})
    io: str = "float32"

    @property
    def needs_ranges(self) -> bool:
        """Whether lowering to it takes activation ranges, hence calibration data."""
        return self.activations.startswith("int")


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "float32", "float32", 60.0, 0.99),
        Scheme("fp16", "float16", "float16", 30.0, 0.95),
        Scheme("int8_weights", "int8", "float32", 10.0, 0.5),
        Scheme("int8_dynamic", "int8", "dynamic", 3.0, 0.2),
        Scheme("int8", "int8", "int8", 3.0, 0.2),
        Scheme("int8_io", "int8", "int8", 3.0, 0.2, io="int8"),
        Scheme("int16x8", "int8", "int16", 10.0, 0.5),
    )
}


@dataclass(frozen=True)
class Manifest:
    """Which samples made the ranges: one sha256 per sample, and where they came from.

    ``preprocessing`` says what was done to them (`Preprocess.to_json` by input), empty when it
    was done outside; ``seed`` is what they were drawn with, None when they were not drawn.
    """

    split: str
    hashes: tuple[str, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Read what ``dataclasses.asdict`` wrote."""
        hashes, preprocessing = tuple(data["hashes"]), data.get("preprocessing", {})
        return cls(data["split"], hashes, preprocessing, data.get("seed"))


@dataclass(frozen=True)
class Ranges:
    """Activation ranges by tensor name of the float ONNX: one decision for every backend.

    ``bounds`` maps a tensor to (min, max) in real units; ``origin`` says how they were found
    (``calibrated:minmax``, ``learned:qat``); ``excluded`` names the ONNX nodes that stay in
    float; ``facts`` says how stable they are and why they were chosen.
    """

    bounds: Mapping[str, tuple[float, float]]
    origin: str
    manifest: Manifest
    excluded: tuple[str, ...] = ()
    facts: Facts = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``ranges.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ranges:
        """Read what ``to_json`` wrote."""
        bounds = {name: (low, high) for name, (low, high) in data["bounds"].items()}
        manifest = Manifest.from_json(data["manifest"])
        facts = data.get("facts", {})
        return cls(bounds, data["origin"], manifest, tuple(data["excluded"]), facts)


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
