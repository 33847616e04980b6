"""Every error that torchopt2edge raises on purpose.

The tree::

    EdgeError                   what happened, on which artifact, what to type next
    ├── ConfigError             an override, a yaml or an argument that cannot work
    ├── DataError               a data set, a calibration set or an input that cannot be used
    │   └── NoSamples           it holds none, or no more than were taken already
    ├── ModelError              a model or a checkpoint that cannot be built or loaded
    ├── TrainError              training that went wrong (NaN loss)
    ├── PruneError              a budget or a layer that cannot be cut
    ├── ExportError             PyTorch → ONNX failed or lost parity
    ├── ConverterError          ONNX → TFLite failed in the sealed environment
    │   └── ConverterMissing    the sealed environment is not built
    ├── LowerError              a backend cannot make the file
    │   └── SchemeError         the backend does not take that scheme
    ├── VerifyError             outputs differ from the reference by more than the scheme allows
    ├── EvaluateError           the metric cannot be computed
    ├── BenchError              a measurement failed (crash, hang, wrong output)
    ├── DeviceError             the device cannot be reached or used
    └── StoreError              the store cannot be written or read

A foreign exception is chained (``raise ... from error``) at the stage, backend and device
boundary and nowhere else: `contained` is that boundary where what may be raised is not known.
Around an improvement that a file can do without stands `optional`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

HINT = " Hint: "
"""What stands in an error's text before its hint."""
OLD_HINT = " To mend it: "
"""The same in the files of a run of the previous release: there it was "To mend it:"."""


_log = logging.getLogger("torchopt2edge")


class EdgeError(Exception):
    """An error of ours: one paragraph that says what, on which artifact, and what to type next.

    Args:
        what: a sentence without a final full stop.
        artifact: the file, folder or candidate it happened on.
        hint: the command or the change that helps.
        mend: the name of ``hint`` in the previous release, which works until the next.
    """

    def __init__(
        self,
        what: str,
        *,
        artifact: object = None,
        hint: str | None = None,
        mend: str | None = None,  # of the previous release
    ) -> None:
        if mend is not None:  # a plug-in written for the previous release
            _warn_of_mend()
        hint = mend if hint is None else hint  # of the previous release
        super().__init__(what, artifact, hint)
        self.what = what
        self.artifact = None if artifact is None else str(artifact)
        self.hint = hint

    @property
    def mend(self) -> str | None:
        """The name of ``hint`` in the previous release."""
        _warn_of_mend()
        return self.hint

    def __str__(self) -> str:
        where = f" [{self.artifact}]" if self.artifact else ""
        hint = f"{HINT}{self.hint}" if self.hint else ""
        return f"{self.what}{where}.{hint}"


def cause_of(error: BaseException) -> str:
    """Return the class and the first line of a foreign exception; of ours what happened."""
    if isinstance(error, EdgeError):
        return error.what
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def contained(
    what: str,
    kind: type[EdgeError] | None = None,
    *,
    artifact: object = None,
    hint: str | None = None,
) -> Iterator[None]:
    """Turn whatever a library raises in this block into one error of ours, with its cause.

    Args:
        what: what could not be done, a sentence without a full stop.
        kind: the class to raise; `EdgeError` by default.
        artifact: the file, folder or candidate that it was done to.
        hint: the command or the change that helps.

    Raises:
        EdgeError: of that kind; one of ours passes as it is.
    """
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        _log.debug("%s", what, exc_info=True)
        text = f"{what}: {cause_of(error)}"
        raise (kind or EdgeError)(text, artifact=artifact, hint=hint) from error


@contextmanager
def optional(what: str, notes: list[str]) -> Iterator[None]:
    """Go on without an improvement that fails in this block, and say so in ``notes``.

    A wrong setting and a full disk are not the improvement's failure: they are raised.
    """
    try:
        yield
    except (ConfigError, StoreError):
        raise
    except Exception as error:
        _log.debug("%s", what, exc_info=True)
        notes.append(f"{what} was left out, because it failed: {cause_of(error)}")


def _warn_of_mend() -> None:
    text = "EdgeError.mend is now EdgeError.hint; the old name works until the next release"
    warnings.warn(text, FutureWarning, stacklevel=3)


class ConfigError(EdgeError):
    """An override, a yaml or an argument that cannot work."""


class DataError(EdgeError):
    """A data set, a calibration set or an input that cannot be used."""


class NoSamples(DataError):
    """A set holds no samples, or no more than were taken already."""


class ModelError(EdgeError):
    """A model or a checkpoint that cannot be built or loaded."""


class TrainError(EdgeError):
    """Training that went wrong, such as a loss that is not a number."""


class PruneError(EdgeError):
    """A pruning budget that cannot be met or a layer that cannot be cut."""


class ExportError(EdgeError):
    """PyTorch → ONNX failed, or the exported graph computes something else."""


class ConverterError(EdgeError):
    """ONNX → TFLite failed in the sealed converter environment."""


class ConverterMissing(ConverterError):
    """The sealed converter environment is not built yet."""


class LowerError(EdgeError):
    """A backend cannot make its file from the float ONNX."""


class SchemeError(LowerError):
    """The backend does not take the requested scheme."""


class VerifyError(EdgeError):
    """The outputs differ from the reference by more than the scheme allows."""


class EvaluateError(EdgeError):
    """The task metric cannot be computed."""


class BenchError(EdgeError):
    """A measurement failed: the child crashed, hung, or computed something else."""


class DeviceError(EdgeError):
    """The device cannot be reached or used."""


class StoreError(EdgeError):
    """The store cannot be written or read."""
