"""A .tflite that takes long enough for two decimals of a millisecond, and stand-ins for tools."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

from torchopt2edge.types import Candidate, Signature

CAPTURED = Path(__file__).parent / "captured"
LITERT_BENCHMARK = Path(sys.executable).parent / "litert-benchmark"
"""The tool that PyPI's ``ai-edge-litert`` installs: the only real one that needs no download."""


def widened(tflite: Candidate, side: int = 512) -> Candidate:
    """Return the adding .tflite of the fixtures for images of ``side`` × ``side``."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model = schema.ModelT.InitFromPackedBuf(bytearray(tflite.file.read_bytes()), 0)
    for tensor in model.subgraphs[0].tensors[:2]:
        tensor.shape = [1, side, side, 3]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = tflite.file.with_name(f"add{side}.tflite")
    file.write_bytes(bytes(builder.Output()))
    ends = [
        tuple(replace(one, shape=(1, 3, side, side)) for one in half)
        for half in (tflite.signature.inputs, tflite.signature.outputs)
    ]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return replace(tflite, file=file, signature=Signature(*ends), digest=digest)


def printing(file: Path, captured: str, before: str = "") -> str:
    """Write a program that notes its words in ``<file>.words`` and prints a captured output."""
    noting = f"printf '%s\\n' \"$@\" >'{file}.words'"
    file.write_text(f"#!/bin/sh\n{noting}\n{before}\nexec cat '{CAPTURED / captured}'\n")
    file.chmod(0o755)
    return str(file)
