"""What makes a model's input of a raw image: one object, stored with the file it belongs to.

Importing it loads the standard library alone; what it does to pixels is in `resample`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LAYOUTS = ("NHWC", "NCHW")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocess:
    """Raw image [N, H, W, C] or [N, C, H, W] → the model's float32 input [N, C, H, W].

    In this order: ``resize`` (the shorter side, or height and width), ``crop`` (centre, height
    and width), times ``scale``, minus ``mean``, divided by ``std`` (one for all channels or one
    per channel). ``layout`` is the raw array's: ``NHWC`` or ``NCHW``. A grey image is repeated
    over the channels of ``mean`` and ``std``.

    The resize is separable, width first, with half-pixel centres and its weights cut at the
    border. ``antialias`` widens the filter when the image shrinks. ``rounding`` keeps an image of
    integers in integers, rounded after each direction. With both, a uint8 image comes out as
    ``torchvision.transforms.Resize`` makes it of a PIL image: bit for bit before Pillow 13, which
    takes the height of tall images first (Pillow's pull request 9549) and so differs by one level
    here and there; with ``antialias`` alone as it makes it of a float tensor, up to float
    rounding; without ``antialias`` as ``torch.nn.functional.interpolate(align_corners=False)``.
    Scale, mean and std are then ``ToTensor`` and ``Normalize``, bit for bit.

    Raises:
        ConfigError: a field that cannot work.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    layout: str = "NHWC"
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    rounding: bool = True

    def __post_init__(self) -> None:
        for name in ("mean", "std", "resize", "crop"):  # JSON and yaml know lists only
            if isinstance(value := getattr(self, name), Iterable):
                object.__setattr__(self, name, tuple(value))
        wrong = [text for text, is_wrong in self._faults().items() if is_wrong]
        if wrong:
            raise ConfigError(f"a preprocessing cannot work: {'; '.join(wrong)}")

    def _faults(self) -> dict[str, bool]:
        sides = [side for pair in (self.resize, self.crop) for side in _pair(pair)]
        bicubic, counts = self.interpolation == "bicubic", {len(self.mean), len(self.std)}
        return {
            f"layout {self.layout!r} is not one of {LAYOUTS}": self.layout not in LAYOUTS,
            f"interpolation {self.interpolation!r} is not one of {INTERPOLATIONS}": (
                self.interpolation not in INTERPOLATIONS
            ),
            "bicubic is there with antialias only": bicubic and not self.antialias,
            f"mean {self.mean} and std {self.std} are for unequal numbers of channels": (
                0 in counts or not counts <= {1, max(counts)}
            ),
            f"std {self.std} holds a zero": not all(self.std),
            f"resize {self.resize} or crop {self.crop} is below 1": min(sides, default=1) < 1,
        }

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what it makes, None when they depend on the raw image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    @property
    def channels(self) -> int | None:
        """Channels of what it makes, None when they are the raw image's."""
        most = max(len(self.mean), len(self.std))
        return most if most > 1 else None

    def __call__(self, raw: Array) -> Array:
        """Make the model's input of a batch of raw images, or of a single one: `apply`."""
        return apply(self, raw)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``signature.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Read what ``to_json`` wrote."""
        return cls(**data)


def apply(preprocess: Preprocess, raw: Array) -> Array:
    """Make the model's input of a batch of raw images, or of a single one [H, W, C].

    Our own code calls this and not the object: what is called by name is in the keys of what
    depends on it.

    Args:
        preprocess: what to do.
        raw: images of any integer or float dtype; without a channel axis a single one is grey.

    Returns:
        float32 [N, C, H, W].

    Raises:
        DataError: no such images, or other channels than those of ``mean`` and ``std``.
    """
    from torchopt2edge.preprocessing import resample

    found = resample.channels_last(raw, preprocess.layout, preprocess.channels)
    size = _resized_to(preprocess.resize, *found.shape[1:3])
    how = resample.Resampling(preprocess.interpolation, preprocess.antialias, preprocess.rounding)
    found = resample.resized(found, size, how)
    if preprocess.crop is not None:
        found = resample.cropped(found, preprocess.crop)
    return resample.normalised(found, preprocess.scale, preprocess.mean, preprocess.std)


def _resized_to(resize: int | tuple[int, int] | None, height: int, width: int) -> tuple[int, int]:
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def _pair(value: int | tuple[int, int] | None) -> tuple[int, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)
