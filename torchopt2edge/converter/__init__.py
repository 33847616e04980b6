"""The sealed converter: float ONNX → float .tflite, in an environment of its own.

onnx2tf and TensorFlow pin what a training environment should not have to: they live in a virtual
environment under the user's cache, and each conversion is one child process there.
"""

from __future__ import annotations

from torchopt2edge.converter.convert import CHILD, Conversion, convert
from torchopt2edge.converter.environment import Environment, find, pins, versions
from torchopt2edge.converter.graph import reject_quantized, with_static_batch
from torchopt2edge.converter.install import install

__all__ = [
    "CHILD",
    "Conversion",
    "Environment",
    "convert",
    "find",
    "install",
    "pins",
    "reject_quantized",
    "versions",
    "with_static_batch",
]
