"""Hold a candidate's outputs against the reference's on the same real inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchopt2edge.errors import VerifyError
from torchopt2edge.interfaces import Session
from torchopt2edge.stats.sqnr import sqnr_db
from torchopt2edge.types import Scheme

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Parity:
    """How close two sets of outputs are; the worst output counts.

    ``sqnr_db`` is the signal-to-quantization-noise ratio over all values (`stats.sqnr.sqnr_db`);
    ``max_abs`` the largest |Δ|; ``agreement`` the share of samples (per cent) with the same
    arg-max, None when no output is a row of scores or the reference answers all samples alike.
    """

    sqnr_db: float
    max_abs: float
    agreement: float | None

    @property
    def metrics(self) -> dict[str, float]:
        """The row's columns."""
        found = {"sqnr_db": self.sqnr_db, "max_abs": self.max_abs}
        return found if self.agreement is None else {**found, "agreement": self.agreement}


def parity(reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> Parity:
    """Compare outputs by name.

    Raises:
        VerifyError: an output is missing, has another shape, or is not finite.
    """
    measured = [_one(name, reference[name], outputs.get(name)) for name in reference]
    shares = [one.agreement for one in measured if one.agreement is not None]
    return Parity(
        min(one.sqnr_db for one in measured),
        max(one.max_abs for one in measured),
        min(shares) if shares else None,
    )


def verify(
    session: Session,
    inputs: Mapping[str, Array],
    reference: Mapping[str, Array],
    scheme: Scheme,
    batch: int = 8,
    classes: bool = True,
) -> Parity:
    """Run the candidate on real inputs and require what its scheme must keep.

    Without ``classes`` the outputs are no scores of classes, and agreement means nothing.

    ``inputs`` and ``reference`` hold the same samples, in the source's names and layout.

    Raises:
        VerifyError: below the scheme's floor, or what `parity` raises.
    """
    count = len(next(iter(inputs.values())))
    pieces = [
        session({name: array[at : at + batch] for name, array in inputs.items()})
        for at in range(0, count, batch)
    ]
    outputs = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
    found = parity(reference, outputs)
    if not classes:
        found = replace(found, agreement=None)
    problem = below(found, scheme)
    if problem:
        raise VerifyError(problem)
    return found


def below(found: Parity, scheme: Scheme) -> str | None:
    """Say in words what the parity lacks for this scheme, None when it is enough."""
    if found.sqnr_db < scheme.min_sqnr_db:
        return (
            f"the outputs differ from the reference: {found.sqnr_db:.1f} dB SQNR where "
            f"{scheme.name} must keep {scheme.min_sqnr_db:.0f} dB (max |Δ| {found.max_abs:.3g})"
        )
    if found.agreement is not None and found.agreement < 100 * scheme.min_agreement:
        return (
            f"the predictions differ from the reference: {found.agreement:.1f} % agree where "
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


def _one(name: str, want: Array, got: Array | None) -> Parity:
    if got is None:
        raise VerifyError(f"the output {name!r} is missing")
    if got.shape != want.shape:
        raise VerifyError(f"the output {name!r} has shape {got.shape}, the reference {want.shape}")
    if not np.isfinite(got).all():
        raise VerifyError(f"the output {name!r} holds NaN or infinity")
    check_finite({name: want})  # a NaN compares as neither above nor below a floor
    noise = got.astype(np.float64) - want.astype(np.float64)
    largest = float(np.abs(noise).max(initial=0.0))
    return Parity(sqnr_db(want, got), largest, _agreement(want, got))


def _agreement(want: Array, got: Array) -> float | None:
    if want.ndim != 2 or want.shape[1] < 2 or not np.issubdtype(want.dtype, np.floating):
        return None
    answers = want.argmax(axis=1)
    if len(answers) > 1 and (answers == answers[0]).all():
        # The reference itself does not tell the samples apart (an untrained net does that): one
        # rounding of the two best scores would make all of them disagree at once.
        return None
    return 100.0 * float(np.mean(answers == got.argmax(axis=1)))
