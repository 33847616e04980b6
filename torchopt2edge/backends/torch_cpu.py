"""PyTorch eager on CPU: the baseline row. Not a file for a device."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from torchopt2edge.backends.file_session import FileSession
from torchopt2edge.backends.silence import quiet
from torchopt2edge.errors import LowerError
from torchopt2edge.interfaces import Sources
from torchopt2edge.types import Artifact, Facts, Scheme, Signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchopt2edge.backends.file_session import Array
    from torchopt2edge.interfaces import ArtifactStore


@dataclass(frozen=True)
class TorchCpu:
    """The PyTorch baseline: runs the exported program op by op, as eager mode would."""

    name = "torch"
    schemes = ("fp32",)
    tools = ("torch",)
    runtime_module = "torch"
    library = ""
    suffix = ".pt2"

    def for_target(self, facts: Facts) -> TorchCpu:
        """The same file serves every processor."""
        return self

    def base(self, graph: Artifact, store: ArtifactStore) -> Artifact:
        """Take the exported program that came with the graph."""
        return graph

    def lower(self, sources: Sources, scheme: Scheme, out: Path) -> Facts:
        """Copy ``model.pt2``.

        Raises:
            LowerError: the model came as an ONNX file, so there is no PyTorch program.
        """
        program = sources.graph.path / "model.pt2"
        if not program.is_file():
            raise LowerError(
                "there is no PyTorch program: the model came as an ONNX file",
                hint="pass the nn.Module, or leave the backend torch out",
            )
        shutil.copyfile(program, out / "model.pt2")
        shutil.copyfile(sources.graph.path / "signature.json", out / "signature.json")
        return {"file": "model.pt2"}

    def read_signature(self, file: Path) -> Signature:
        """Read the ``signature.json`` beside the program."""
        import json

        return Signature.from_json(json.loads((file.parent / "signature.json").read_text()))

    def read_scheme(self, file: Path) -> str:
        """Read off the file whether it computes in integers."""
        return "fp32"

    def read_facts(self, file: Path) -> Facts:
        """Return nothing: there is no file for a device to read facts of."""
        return {}

    def open(self, file: Path, signature: Signature, threads: int) -> FileSession:
        """Load the exported program and run it in inference mode.

        Raises:
            LowerError: PyTorch cannot load the file.
        """
        import torch

        torch.set_num_threads(threads)
        try:
            with quiet():
                module = torch.export.load(file).module()
        except (OSError, BadZipFile, RuntimeError, LookupError, ValueError, TypeError) as error:
            said = str(error).partition("\n")[0]
            raise LowerError(f"PyTorch cannot open this program: {said}", artifact=file) from error
        names = [spec.file_name for spec in signature.inputs]
        outputs = [spec.file_name for spec in signature.outputs]

        def execute(arrays: Mapping[str, Array]) -> dict[str, Array]:
            with torch.inference_mode():
                given = module(*(torch.from_numpy(arrays[name]) for name in names))
            values = _flat(given)
            return {key: v.numpy() for key, v in zip(outputs, values, strict=True)}

        return FileSession(signature, execute)

    def profile(
        self, file: Path, threads: int, arrays: Mapping[str, Array], runs: int
    ) -> list[Facts]:
        """Return nothing: the baseline is no file to make faster."""
        return []

    def receipt(self) -> Facts:
        """Name the runtime, its version and the options that are pinned."""
        import torch

        return {"runtime": "torch", "runtime_version": torch.__version__, "mode": "eager"}


def _flat(value: Any) -> list[Any]:
    """Flatten a forward's result in the order of its signature."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _flat(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]
