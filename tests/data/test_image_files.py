"""Image files as people have them: right, or refused with the file's name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchopt2edge.data.image_files import image_files, read_image
from torchopt2edge.data.image_folder import ImageFolder
from torchopt2edge.errors import DataError

RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))  # [24, 32]


def write(image: Image.Image, path: Path, **options: object) -> Path:
    """Write a picture and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    found = read_image(write(wide, tmp_path / "wide.png"))
    np.testing.assert_array_equal(found, np.stack([RAMP] * 3, axis=-1))


def test_a_camera_that_was_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    file = write(Image.fromarray(RAMP), tmp_path / "turned.jpg", exif=exif, quality=100)
    assert read_image(file).shape == (32, 24, 3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1", "YCbCr"])
def test_every_plain_mode_is_three_channels(mode: str, tmp_path: Path) -> None:
    suffix = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    image = Image.fromarray(np.stack([RAMP] * 3, -1)).convert(mode)
    found = read_image(write(image, tmp_path / f"x{suffix}"))
    assert found.shape == (24, 32, 3)
    assert found.dtype == np.uint8


def _damaged(path: Path) -> None:
    file = write(Image.fromarray(RAMP), path.with_suffix(".png"))
    content = file.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
    "postscript": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "cut": _damaged,
    "float": lambda path: Image.fromarray(RAMP / 255.0).save(path, format="TIFF"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    BROKEN[kind](path)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert "bad.jpg" in str(caught.value)
    assert "skip_broken" in str(caught.value)


def test_what_counts_as_an_image_file(tmp_path: Path) -> None:
    here = write(Image.fromarray(RAMP), tmp_path / "a" / "x.png")
    write(Image.fromarray(RAMP), tmp_path / ".hidden" / "y.png")
    write(Image.fromarray(RAMP), tmp_path / "a" / ".ipynb_checkpoints" / "y.png")
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "notes.txt").write_text("none")
    assert image_files(tmp_path) == [here]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("bee", "cat", "dog"):
            for at in range(10):
                value = RAMP // 2 + at + len(part)
                write(Image.fromarray(value), tmp_path / "set" / part / name / f"{at}.png")
    return tmp_path / "set"


def labels(root: Path, **options: object) -> list[int]:
    """Return the labels of the test split."""
    split = ImageFolder(root=str(root), size=16, resize=16, **options).split("test")
    return [split[at][1] for at in range(len(split))]


def test_labels_are_those_of_train(root: Path) -> None:
    for file in (root / "test" / "bee").iterdir():
        file.unlink()
    (root / "test" / "bee").rmdir()
    write(Image.fromarray(RAMP), root / "test" / ".ipynb_checkpoints" / "x.png")
    assert labels(root) == [1] * 10 + [2] * 10


def test_a_folder_that_is_no_class_is_an_error(root: Path) -> None:
    (root / "test" / "cat").rename(root / "test" / "cats")
    with pytest.raises(DataError, match="'cats'"):
        labels(root)


def test_a_linked_folder_is_part_of_the_content(root: Path, tmp_path: Path) -> None:
    (root / "test").rename(tmp_path / "elsewhere")
    (root / "test").symlink_to(tmp_path / "elsewhere")
    before = ImageFolder(root=str(root)).fingerprint()
    assert len(labels(root)) == 30
    write(Image.fromarray(RAMP), tmp_path / "elsewhere" / "dog" / "new.png")
    assert ImageFolder(root=str(root)).fingerprint() != before


def test_broken_images_are_left_out_up_to_a_share(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "test" / "cat" / "3.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"3\.png"):
        labels(root)
    assert labels(root, skip_broken=True) == [0] * 10 + [1] * 9 + [2] * 10
    assert "3.png" in caplog.text
    for at in range(5):
        (root / "test" / "dog" / f"{at}.png").write_bytes(b"no")
    with pytest.raises(DataError, match="6 of 30 images"):
        labels(root, skip_broken=True)
