"""Image files in folders: which count, and how one becomes an array, right or refused by name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""What Pillow may decode: a file of another kind under such a name reaches no other program."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
MOST_PIXELS = 200_000_000


def visible_folders(folder: Path) -> list[Path]:
    """Return the subfolders, sorted by name; hidden ones (``.ipynb_checkpoints``) do not count."""
    return sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted; links are followed, each folder once.

    Hidden files and folders, pipes and devices, and links that lead nowhere do not count.
    """
    return [file for file in files_below(folder) if file.suffix.lower() in SUFFIXES]


def files_below(folder: Path) -> list[Path]:
    """Return all regular files below a folder that are not hidden, sorted, links followed."""
    return list(_walk(folder, set()))


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    here = folder.stat()
    if (here.st_dev, here.st_ino) in seen:
        return  # a link to a folder that holds it
    seen.add((here.st_dev, here.st_ino))
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    for entry in sorted(entries, key=lambda one: one.name):
        try:
            mode = os.stat(entry.path).st_mode
        except OSError:  # a link that leads nowhere
            continue
        if stat.S_ISREG(mode):
            yield Path(entry.path)
        elif stat.S_ISDIR(mode):
            yield from _walk(Path(entry.path), seen)


def fingerprint_lines(folder: Path) -> Iterator[str]:
    """Yield a line for every file below a folder: its name, size and time of change."""
    for path in files_below(folder):
        found = path.stat()
        name = os.fsencode(path.relative_to(folder)).hex()  # a name need not be UTF-8
        yield f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n"


def read_image(path: Path) -> Array:
    """Return an image as uint8 [H, W, 3], turned as its camera says.

    16-bit grey is scaled to 8 bits; transparency is dropped, as torchvision does.

    Raises:
        DataError: it is damaged, of a format or a kind of pixel that is not taken, or too large.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _refused(path, f"it has {image.width} × {image.height} pixels")
            turned = ImageOps.exif_transpose(image)
            return np.asarray(_eight_bits(turned, path).convert("RGB"))
    except UnidentifiedImageError as error:
        raise _refused(path, f"it is none of {', '.join(FORMATS)}") from error
    except _UNREADABLE as error:
        lines = str(error).splitlines()
        raise _refused(path, lines[0] if lines else type(error).__name__) from error


_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    SyntaxError,  # Pillow's own word for a damaged PNG
    TypeError,
    ValueError,
)


def _eight_bits(image: Any, path: Path) -> Any:
    """Return an image of 8 bits per channel."""
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise _refused(path, "its pixels are floats, whose range nobody states")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise _refused(path, "its pixels have 32 bits, whose range nobody states")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _refused(path: Path, why: str) -> DataError:
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return DataError(
        f"an image cannot be used: {why}",
        artifact=name,
        hint="remove it, or data.skip_broken=true",
    )
