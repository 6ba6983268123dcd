"""Decoding of image files: which formats are read, and how pixels become RGB of 8 bits."""

from contextlib import suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gmixout.data.reading import regular

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (
    "JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF", "DIB", "HEIF", "JPEG2000", "MPO",
    "PCX", "QOI", "SGI", "TGA",
)  # fmt: skip
"""Formats of Pillow (of a plugin of it: HEIF) that are read, whatever a file is called. Others are
for icons, or need programs that Pillow would run (EPS: Ghostscript)."""


HEIF_PLUGINS = ("pi_heif", "pillow_heif")
"""Packages that let Pillow read the photos of iPhones; the first one decodes only."""
HEIF_ENDINGS = (".heic", ".heif", ".hif")


@cache
def formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow reads."""
    from PIL import Image

    Image.init()
    for plugin in HEIF_PLUGINS:
        with suppress(ImportError):
            import_module(plugin).register_heif_opener()
            break
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def suffixes() -> tuple[str, ...]:
    """Return the endings, in lower case, that Pillow knows for files of `formats`."""
    from PIL import Image

    known = formats()  # which registers more
    return tuple(s for s, name in Image.registered_extensions().items() if name in known)


def decoded(file: Path | BytesIO, upright: bool = False) -> "Image":
    """Return the image in an image file, in RGB; raises whatever Pillow does on a broken one.

    Args:
        file: A path, or the file's bytes.
        upright: Rotate it by its EXIF data.
    """
    from PIL import Image, ImageOps

    source = regular(file) if isinstance(file, Path) else file
    with Image.open(source, formats=formats()) as opened:
        bits = 16 if opened.mode.startswith("I;16") or opened.format in ("PNG", "PPM") else 32
        if upright:
            ImageOps.exif_transpose(opened, in_place=True)
        if opened.mode == "F" or (opened.mode == "I" and bits == 32):
            kind = "floating-point numbers" if opened.mode == "F" else "whole numbers of 32 bits"
            raise ValueError(f"its pixels are {kind}, of unknown range; save it with 8 or 16 bits")
        if opened.mode.startswith("I"):
            # Pillow would cut off all above 255
            wide = np.asarray(opened).astype(np.int64)
            return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
        # Pillow warns of palettes with transparency that go to RGB directly; colours are the same
        seen = opened.convert("RGBA") if "transparency" in opened.info else opened
        picture: Image.Image = seen.convert("RGB")
    return picture
