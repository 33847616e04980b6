"""ONNX Runtime."""

from typing import TYPE_CHECKING

from torchopt2edge._moved import names_of

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__)
