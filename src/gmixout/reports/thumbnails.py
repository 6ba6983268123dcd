"""Small pictures for pages."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gmixout.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 112
"""Longest side of a thumbnail in pixels."""


def thumbnail_of(picture: "Image") -> bytes:
    """Return a small JPEG of an image; a tiny one is enlarged without smoothing."""
    from PIL import Image

    if 2 * max(picture.size) <= THUMBNAIL:
        factor = THUMBNAIL // max(picture.size)
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    picture = picture.convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    held = BytesIO()
    picture.save(held, "JPEG", quality=70)
    return held.getvalue()


def thumbnail_in(dataset: Any, index: int) -> bytes:
    """Return a small JPEG of an image of a data set; empty if it is not a picture.

    Args:
        dataset: Its method `picture(index)` gives an image of Pillow; without one, its items are
            `(image [C, H, W], label)`, with one or three channels of any range.
        index: Position of the image.
    """
    if hasattr(dataset, "picture"):
        try:
            return thumbnail_of(dataset.picture(index))
        except DataError:  # it was there a moment ago
            return b""
    from PIL import Image

    values = dataset[index][0].float()
    if values.ndim != 3 or values.shape[0] not in (1, 3) or not values.numel():
        return b""
    low, high = values.min(), values.max()
    scaled = (255 * (values - low) / (high - low).clamp(min=1e-12)).round().byte()
    array = scaled.permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy()
    return thumbnail_of(Image.fromarray(array))


def jpeg_uri(jpeg: bytes) -> str:
    """Return a JPEG as the source of an image on a page; empty for nothing."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""
