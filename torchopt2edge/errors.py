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
boundary and nowhere else.
"""

from __future__ import annotations

import warnings

HINT = " Hint: "
"""What stands in an error's text before its hint."""
OLD_HINT = " To mend it: "
"""The same in the files of a run of the previous release: there it was "To mend it:"."""


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
