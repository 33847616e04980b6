"""Raw images to inputs: to the bit what torchvision makes of them, and the same bits always."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional

from torchopt2edge.errors import ConfigError, DataError
from torchopt2edge.preprocessing.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocess(MEAN, STD, resize=32, crop=(24, 28))
MODES = {name: transforms.InterpolationMode(name) for name in ("bilinear", "bicubic")}


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return noise of uint8, the hardest image there is."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def bits(array: np.ndarray) -> bytes:
    """Return the bytes, so that -0.0 is not 0.0."""
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    return array.tobytes()


def resized(image: np.ndarray, height: int, width: int, mode: str) -> Image.Image:
    """Resize with Pillow, width first: in one go the order depends on Pillow's version."""
    how = Image.Resampling[mode.upper()]
    return Image.fromarray(image).resize((width, len(image)), how).resize((width, height), how)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("height", "width", "high", "wide"),
    [(40, 50, 32, 40), (75, 33, 72, 32), (32, 32, 32, 32), (28, 60, 32, 68), (333, 100, 106, 32)],
)
def test_torchvisions_transforms_of_a_photograph(
    height: int, width: int, high: int, wide: int, mode: str
) -> None:
    image = photo(height, width)
    theirs = transforms.Compose(
        [
            transforms.CenterCrop((24, 28)),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )(resized(image, high, wide, mode))
    ours = Preprocess(MEAN, STD, resize=32, crop=(24, 28), interpolation=mode)(image)
    assert ours.shape == (1, 3, 24, 28)
    assert bits(ours) == theirs.numpy().tobytes()


NEW = st.one_of(st.integers(1, 70), st.tuples(st.integers(1, 70), st.integers(1, 70)))


@settings(max_examples=60, deadline=None)
@given(
    old=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    new=NEW,
    mode=st.sampled_from(sorted(MODES)),
    seed=st.integers(0, 99),
)
def test_any_resize_is_that_of_a_pil_image(
    old: tuple[int, int], new: int | tuple[int, int], mode: str, seed: int
) -> None:
    image = photo(*old, seed=seed)
    made = np.asarray(transforms.Resize(new, MODES[mode])(Image.fromarray(image)))
    ours = Preprocess(scale=1.0, resize=new, interpolation=mode)(image)[0].transpose(1, 2, 0)
    assert ours.shape == made.shape
    if mode == "bilinear":  # a cubic that overshoots is clipped in between: other orders show
        assert np.abs(ours - made).max() <= 2.0
    np.testing.assert_array_equal(ours, resized(image, *ours.shape[:2], mode))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [[17], [41], [90], [10, 77]])
def test_torchvisions_resize_of_tensors(size: list[int], antialias: bool) -> None:
    image = photo(41, 60)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    new = (size[0], size[1]) if len(size) == 2 else size[0]
    how = Preprocess(scale=1.0, resize=new, antialias=antialias)
    whole = functional.resize(tensor, size, antialias=antialias).numpy()
    assert np.abs(how(image)[0] - whole).max() <= 1.0, "its kernel for uint8 has coarser weights"
    exact = functional.resize(tensor.float(), size, antialias=antialias).numpy()
    unrounded = Preprocess(scale=1.0, resize=new, antialias=antialias, rounding=False)
    np.testing.assert_allclose(unrounded(image)[0], exact, atol=1e-4 * 255)
    np.testing.assert_array_equal(how(image.astype(np.float32)), unrounded(image))


def test_the_bits_are_pinned() -> None:
    """Whatever the machine and the version of NumPy."""
    rows, columns, channels = np.ogrid[:37, :53, :3]
    image = ((rows * 7919 + columns * 104729 + channels * 1299709) % 251).astype(np.uint8)
    made = {
        "rounded": IMAGENET(image),
        "unrounded": Preprocess(MEAN, STD, resize=(24, 28), rounding=False)(image),
        "cubic": Preprocess(MEAN, STD, resize=20, interpolation="bicubic", rounding=False)(image),
    }
    found = {name: hashlib.sha256(bits(one)).hexdigest()[:16] for name, one in made.items()}
    assert found == PINNED


PINNED = {
    "rounded": "1a3802cadeca3a9b",
    "unrounded": "e24c50d52efe399a",
    "cubic": "b650895f87c5c9d2",
}


@pytest.mark.parametrize("how", [IMAGENET, Preprocess(MEAN, STD)], ids=["resize", "plain"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_how_the_array_lies_in_memory_does_not_matter(how: Preprocess, dtype: Any) -> None:
    batch = np.stack([photo(40, 50, seed=seed) for seed in range(3)]).astype(dtype)
    wanted = bits(how(batch))
    assert bits(np.concatenate([how(image) for image in batch])) == wanted
    assert bits(how(np.asfortranarray(batch))) == wanted
    assert bits(how(batch[:, :, ::-1][:, :, ::-1])) == wanted
    planes = Preprocess(**{**how.to_json(), "layout": "NCHW"})
    assert bits(planes(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))) == wanted
    assert bits(planes(batch[1].transpose(2, 0, 1))) == bits(how(batch[1]))


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "int64", "uint64"])
def test_wider_integers_are_the_same_image(dtype: str) -> None:
    image = photo(40, 50)
    assert bits(IMAGENET(image.astype(dtype))) == bits(IMAGENET(image))


def test_signed_integers_keep_their_sign() -> None:
    image = photo(9, 9).astype(np.int16) - 128
    made = Preprocess(scale=1.0, resize=5)(image)
    exact = Preprocess(scale=1.0, resize=5, rounding=False)(image)
    assert made.min() < 0 < made.max()
    assert np.abs(made - exact).max() <= 1.0


@pytest.mark.parametrize("rounding", [True, False])
def test_sixteen_bits_are_not_cut_to_eight(rounding: bool) -> None:
    image = photo(9, 9).astype(np.uint16) * 257
    made = Preprocess(scale=1 / 65535, resize=5, rounding=rounding)(image)
    near = Preprocess(resize=5, rounding=False)(photo(9, 9))
    np.testing.assert_allclose(made, near, atol=2e-5)


def test_grey_images() -> None:
    grey = photo(40, 50, 1)
    colour = IMAGENET(grey.repeat(3, axis=2))
    assert bits(IMAGENET(grey)) == bits(colour)
    assert bits(IMAGENET(grey[:, :, 0])) == bits(colour)
    assert bits(IMAGENET(grey[None])) == bits(colour)
    assert Preprocess((0.5,), (0.5,))(grey).shape == (1, 1, 40, 50)


def test_one_mean_is_for_all_channels() -> None:
    image = photo(4, 5, 4)
    one, four = Preprocess((0.5,), (0.25,)), Preprocess((0.5,) * 4, (0.25,))
    assert bits(one(image)) == bits(four(image))
    assert (one.channels, four.channels) == (None, 4)


def test_the_size_it_makes() -> None:
    assert Preprocess().size is None
    assert Preprocess(resize=32).size is None
    assert Preprocess(resize=(32, 16)).size == (32, 16)
    assert IMAGENET.size == (24, 28)


WRONG: dict[str, tuple[Any, str]] = {
    "four-channels": (photo(40, 50, 4), r"\(40, 50, 4\) has 4 channels as NHWC.* are for 3"),
    "other-layout": (photo(3, 40, 50), "50 channels as NHWC"),
    "flat": (np.zeros(7, np.uint8), r"uint8 of shape \(7,\), not numbers \[N, H, W, C\]"),
    "deep": (np.zeros((1, 1, 4, 4, 3), np.uint8), "not numbers"),
    "empty": (np.zeros((1, 0, 4, 3), np.uint8), "not numbers"),
    "truth": (np.zeros((40, 50, 3), bool), "bool"),
    "text": (np.full((40, 50, 3), "a"), "<U1"),
    "narrow": (photo(60, 30), "crop of 24×28 does not fit"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_image(case: str) -> None:
    image, what = WRONG[case]
    with pytest.raises(DataError, match=what):
        Preprocess(MEAN, STD, resize=25, crop=(24, 28))(image)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"layout": "HWC"}, "layout 'HWC'"),
        ({"interpolation": "nearest"}, "interpolation 'nearest'"),
        ({"interpolation": "bicubic", "antialias": False}, "antialias only"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0, 1.0)}, "unequal numbers"),
        ({"mean": ()}, "unequal numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "a zero"),
        ({"resize": 0}, "below 1"),
        ({"crop": (0, 4)}, "below 1"),
        ({"layout": "CHW", "resize": -1}, "layout 'CHW'.*; resize -1"),
    ],
)
def test_fields_that_cannot_work(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Preprocess(**fields)


SIDES = st.integers(1, 4096)
NUMBERS = st.floats(0.01, 10, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Preprocess,
        mean=st.tuples(NUMBERS, NUMBERS, NUMBERS),
        std=st.tuples(NUMBERS) | st.tuples(NUMBERS, NUMBERS, NUMBERS),
        scale=NUMBERS,
        layout=st.sampled_from(["NHWC", "NCHW"]),
        resize=st.none() | SIDES | st.tuples(SIDES, SIDES),
        crop=st.none() | st.tuples(SIDES, SIDES),
        rounding=st.booleans(),
    )
)
def test_it_survives_json(how: Preprocess) -> None:
    assert Preprocess.from_json(json.loads(json.dumps(how.to_json()))) == how


def test_lists_are_tuples() -> None:
    listed: dict[str, Any] = {"mean": [*MEAN], "std": [*STD], "resize": [9, 8], "crop": [4, 5]}
    how = Preprocess(**listed)
    assert how == Preprocess(MEAN, STD, resize=(9, 8), crop=(4, 5))
    assert {how}, "it has a hash"
