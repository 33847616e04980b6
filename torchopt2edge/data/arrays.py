"""Samples in a ``.npz`` or ``.npy`` file: inputs of any model, by the names of its inputs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.data.dataset import Split, check_name
from torchopt2edge.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rows:
    """A split of arrays: item i is row i of each, by name."""

    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, Array]:
        return {name: array[index] for name, array in self.arrays.items()}


@dataclass(frozen=True)
class Arrays:
    """Preprocessed samples in a file: they calibrate and check a model, and score nothing.

    Attributes:
        path: a ``.npz`` with one array [samples, …] per input, by the input's name; or a ``.npy``
            for the only input. Pickled objects are refused.
        calibration_count: how many samples are taken at most, from the front.
        input: the name that the array of a ``.npy`` gets; any, for a model with one input.
    """

    path: str = field(default="samples.npz", metadata={"identity": False})
    calibration_count: int = 256
    input: str = "input"

    labelled = False
    preprocess = None
    seed = None

    def fingerprint(self) -> str:
        """Return the sha256 of the file."""
        with self._file().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def split(self, name: Split) -> Rows:
        """Return the samples that calibrate; there is no other split.

        Raises:
            DataError: the file is missing, damaged or empty, or another split is asked for.
        """
        check_name(name)
        if name != "calibration":
            raise DataError("arrays without labels neither train a net nor score one")
        arrays = self._arrays()
        counts = {key: len(array) if array.ndim else 0 for key, array in arrays.items()}
        if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
            raise DataError(
                f"the arrays hold these numbers of samples: {counts}",
                artifact=self.path,
                hint="give each input one array [samples, …], all of the same length",
            )
        return Rows({key: array[: self.calibration_count] for key, array in arrays.items()})

    def _arrays(self) -> dict[str, Array]:
        import numpy as np

        try:
            with self._file().open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                if isinstance(loaded, np.ndarray):
                    return {self.input: loaded}
                return {str(key): np.asarray(loaded[key]) for key in loaded.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, MemoryError) as error:
            raise DataError(
                f"a file of arrays cannot be read: {str(error).splitlines()[0]}",
                artifact=self.path,
                hint="write it with numpy.savez(path, input_name=array)",
            ) from error

    def _file(self) -> Path:
        file = Path(self.path)
        if not file.is_file():
            raise DataError("a file of arrays is missing", artifact=file, hint="data.path=FILE")
        return file
