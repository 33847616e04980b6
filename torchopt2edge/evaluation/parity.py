"""Hold a candidate's outputs against the reference's on the same real inputs, output by output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from torchopt2edge.errors import VerifyError
from torchopt2edge.interfaces import Session
from torchopt2edge.stats.columns import column_groups
from torchopt2edge.stats.noise import Noise
from torchopt2edge.stats.sqnr import sqnr_db
from torchopt2edge.types import Facts, Scheme

Array = np.ndarray[Any, Any]

_FLOAT_SCALE = {"fp32": 1.0, "fp16": 2.0**11}  # one unit in the last place, in those of float32
# Columns are named when they keep less than this, and so much less than the whole.
_POOR_DB, _WORSE_DB = 20.0, 10.0


@dataclass(frozen=True)
class OutputParity:
    """How close one output is.

    Attributes:
        name: the output's.
        sqnr_db: the signal-to-quantization-noise ratio over all values; None for integers.
        max_abs: the largest |Δ|, in the output's own units.
        agreement: per cent of the samples with the same arg-max, where the output is rows of
            class scores.
        equal: per cent of equal elements, for integers (labels, masks, indices).
        noise: whether the difference is no larger than what float32 itself makes.
        columns: where columns differ in meaning (`stats.columns`), the worst ones and their dB.
    """

    name: str
    sqnr_db: float | None
    max_abs: float
    agreement: float | None = None
    equal: float | None = None
    noise: bool = False
    columns: tuple[str, float] | None = None


@dataclass(frozen=True)
class Parity:
    """How close two sets of outputs are; the worst output counts.

    ``sqnr_db`` is None when every output holds integers; the other fields are those of
    `OutputParity`, at their worst.
    """

    sqnr_db: float | None
    max_abs: float
    agreement: float | None
    equal: float | None = None
    outputs: tuple[OutputParity, ...] = field(default=(), compare=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The row's columns."""
        named = {
            "sqnr_db": self.sqnr_db,
            "max_abs": self.max_abs,
            "agreement": self.agreement,
            "equal": self.equal,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def facts(self) -> Facts:
        """What the row's receipt holds: each output, and a note for a column that suffers."""
        several = len(self.outputs) > 1 or any(one.columns for one in self.outputs)
        found: Facts = {"outputs": [asdict(one) for one in self.outputs]} if several else {}
        notes = [
            f"output {one.name!r}: {one.columns[0]} keep {one.columns[1]:.1f} dB, the whole output "
            f"{one.sqnr_db:.1f} dB"
            for one in self.outputs
            if one.columns and one.sqnr_db is not None
        ]
        return {**found, "notes": notes} if notes else found


def parity(
    reference: Mapping[str, Array],
    outputs: Mapping[str, Array],
    noise: Noise | None = None,
    scale: float = 1.0,
) -> Parity:
    """Compare outputs by name.

    Args:
        reference: the outputs that are right, each [samples, …].
        outputs: the candidate's.
        noise: how far float32 moves each output of this model.
        scale: the roundings of the candidate's format, in those of float32.

    Raises:
        VerifyError: an output is missing, has another shape, or is not finite.
    """
    classes = _class_scores(reference)
    found = tuple(
        _one(name, want, outputs.get(name), name in classes, noise or Noise(), scale)
        for name, want in reference.items()
    )
    return Parity(
        min((one.sqnr_db for one in found if one.sqnr_db is not None), default=None),
        max(one.max_abs for one in found),
        min((one.agreement for one in found if one.agreement is not None), default=None),
        min((one.equal for one in found if one.equal is not None), default=None),
        found,
    )


def verify(
    session: Session,
    inputs: Mapping[str, Array],
    reference: Mapping[str, Array],
    scheme: Scheme,
    batch: int = 8,
    classes: bool = True,
    noise: Noise | None = None,
) -> Parity:
    """Run the candidate on real inputs and require what its scheme must keep.

    Args:
        session: the candidate, open.
        inputs: samples by name, in the source's layout.
        reference: the right outputs of these samples.
        scheme: its floors are required.
        batch: how many samples run at once.
        classes: whether outputs may be scores of classes; otherwise agreement means nothing.
        noise: how far float32 moves each output of this model.

    Raises:
        VerifyError: below the scheme's floor, or what `parity` raises.
    """
    count = len(next(iter(inputs.values())))
    pieces = [
        session({name: array[at : at + batch] for name, array in inputs.items()})
        for at in range(0, count, batch)
    ]
    outputs = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
    found = parity(reference, outputs, noise, _FLOAT_SCALE.get(scheme.name, 0.0))
    if not classes:
        each = tuple(replace(one, agreement=None) for one in found.outputs)
        found = replace(found, agreement=None, outputs=each)
    problem = below(found, scheme)
    if problem:
        raise VerifyError(problem)
    return found


def below(found: Parity, scheme: Scheme) -> str | None:
    """Say in words what the parity lacks for this scheme, None when it is enough."""
    whole = OutputParity("", found.sqnr_db, found.max_abs, found.agreement, found.equal)
    several = len(found.outputs) > 1
    for one in found.outputs or (whole,):
        subject = f"the output {one.name!r} differs" if several else "the outputs differ"
        if one.sqnr_db is not None and one.sqnr_db < scheme.min_sqnr_db and not one.noise:
            return (
                f"{subject} from the reference: {one.sqnr_db:.1f} dB SQNR where "
                f"{scheme.name} must keep {scheme.min_sqnr_db:.0f} dB (max |Δ| {one.max_abs:.3g})"
            )
        if one.equal is not None and one.equal < 100 * scheme.min_agreement:
            return (
                f"{subject} from the reference: {one.equal:.1f} % of its integers are equal where "
                f"{scheme.name} must keep {100 * scheme.min_agreement:.0f} %"
            )
        if one.noise:  # which of two scores is larger is then chance
            continue
        if one.agreement is not None and one.agreement < 100 * scheme.min_agreement:
            return (
                f"the predictions differ from the reference: {one.agreement:.1f} % agree where "
                f"{scheme.name} must keep {100 * scheme.min_agreement:.0f} %"
            )
    return None


def check_finite(reference: Mapping[str, Array]) -> None:
    """Refuse a reference that is not a number.

    Raises:
        VerifyError: the model itself outputs NaN or infinity.
    """
    for name, value in reference.items():
        if not np.isfinite(value).all():
            raise VerifyError(
                f"the model itself outputs NaN or infinity in {name!r}",
                hint="check the checkpoint and the preprocessing of the samples",
            )


def _one(
    name: str, want: Array, got: Array | None, classes: bool, noise: Noise, scale: float
) -> OutputParity:
    if got is None:
        raise VerifyError(f"the output {name!r} is missing")
    if got.shape != want.shape:
        raise VerifyError(f"the output {name!r} has shape {got.shape}, the reference {want.shape}")
    if not np.isfinite(got).all():
        raise VerifyError(f"the output {name!r} holds NaN or infinity")
    check_finite({name: want})  # a NaN compares as neither above nor below a floor
    error = got.astype(np.float64) - want.astype(np.float64)
    largest = float(np.abs(error).max(initial=0.0))
    if not np.issubdtype(want.dtype, np.floating):
        equal = 100.0 * float(np.mean(want == got)) if want.size else 100.0
        return OutputParity(name, None, largest, equal=equal)
    ratio = sqnr_db(want, got)
    return OutputParity(
        name,
        ratio,
        largest,
        _agreement(want, got) if classes else None,
        noise=scale > 0 and noise.allows(name, error, scale),
        columns=None if classes else _worst_columns(want, got, ratio),
    )


def _class_scores(reference: Mapping[str, Array]) -> set[str]:
    """Return the outputs that are rows of class scores: float [samples, classes].

    A row as long as an axis of another output holds one number per box or point of that output.
    """
    lengths: dict[str, Sequence[int]] = {
        name: value.shape[1:] for name, value in reference.items() if value.ndim > 2
    }
    others = {size for sizes in lengths.values() for size in sizes}
    return {
        name
        for name, value in reference.items()
        if value.ndim == 2
        and value.shape[1] > 1
        and np.issubdtype(value.dtype, np.floating)
        and value.shape[1] not in others
    }


def _agreement(want: Array, got: Array) -> float | None:
    answers = want.argmax(axis=1)
    if len(answers) > 1 and (answers == answers[0]).all():
        # The reference itself does not tell the samples apart (an untrained net does that): one
        # rounding of the two best scores would make all of them disagree at once.
        return None
    return 100.0 * float(np.mean(answers == got.argmax(axis=1)))


def _worst_columns(want: Array, got: Array, whole: float) -> tuple[str, float] | None:
    """Return the columns that keep far less than the whole output, and their dB."""
    groups = column_groups(want)
    if not groups:
        return None
    ratios = [sqnr_db(group.of(want), group.of(got)) for group in groups]
    worst = int(np.argmin(ratios))
    if ratios[worst] >= min(_POOR_DB, whole - _WORSE_DB):
        return None
    return str(groups[worst]), ratios[worst]
