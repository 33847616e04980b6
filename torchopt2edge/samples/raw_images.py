"""Raw images where a model takes its input: who makes the input of them, and by what rule.

The rule, the same in calibration, evaluation and every runtime: an array of an integer dtype for
a float input whose signature has a `Preprocess` is raw and goes through it; an array of floats is
taken as preprocessed already.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from torchopt2edge.errors import ConfigError
from torchopt2edge.preprocessing.preprocess import Preprocess, apply
from torchopt2edge.types import Signature, TensorSpec

Array = np.ndarray[Any, Any]


def is_raw(array: Array, spec: TensorSpec) -> bool:
    """Tell whether an array given for this input is a raw image or a batch of them."""
    return (
        spec.preprocess is not None
        and np.dtype(spec.dtype).kind == "f"
        and np.asarray(array).dtype.kind in "iu"
    )


def ready(array: Array, spec: TensorSpec) -> Array:
    """Return the input of the source model: a raw image goes through the signature's object.

    What is not raw comes back as it is, whatever its shape.

    Raises:
        DataError: a raw image of a wrong shape.
    """
    value = np.asarray(array)
    return apply(spec.preprocess, value) if spec.preprocess and is_raw(value, spec) else value


def with_preprocess(signature: Signature, preprocess: Preprocess | None) -> Signature:
    """Return the signature with a preprocessing on its image input, the only one of rank 4.

    Raises:
        ConfigError: there is no such input or several, or the preprocessing makes another shape
            than it takes.
    """
    if preprocess is None:
        return signature
    images = [spec for spec in signature.inputs if _is_image(spec)]
    if len(images) != 1:
        raise ConfigError(
            f"a preprocessing is for one image input [N, C, H, W]; the model has {len(images)} of "
            f"its {len(signature.inputs)} inputs like that",
            hint="preprocess outside, and leave preprocess= out",
        )
    (image,) = images
    made = (preprocess.channels or -1, *(preprocess.size or (-1, -1)))
    if any(-1 not in pair and len({*pair}) > 1 for pair in zip(made, image.shape[1:], strict=True)):
        raise ConfigError(
            f"the preprocessing makes [N, C, H, W] = {(-1, *made)}, the input {image.name!r} "
            f"takes {image.shape} (-1 is any size)",
            hint="give preprocess the model's channels, resize and crop",
        )
    inputs = [replace(s, preprocess=preprocess) if s is image else s for s in signature.inputs]
    return replace(signature, inputs=tuple(inputs))


def _is_image(spec: TensorSpec) -> bool:
    return len(spec.shape) == 4 and np.dtype(spec.dtype).kind == "f"
