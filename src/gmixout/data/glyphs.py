"""Digits drawn from the TrueType fonts that matplotlib ships: a broad domain without downloads.

A font is a file; `draw` gives its ten digits as clean masks of ink, and `vary` turns masks of ink
into images: slant, stroke, ink and paper differ from image to image.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gmixout.data.base import LabelledImages
from gmixout.errors import DataError, needs

PRETRAINING_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "STIXGeneralBolIta.ttf",
)
HELD_OUT_FONTS = ("cmr10.ttf", "cmb10.ttf", "cmti10.ttf", "cmss10.ttf", "cmtt10.ttf")
DEV_FONTS = (
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSerif-BoldItalic.ttf",
)

IMAGE_SIZE = 28
# Glyphs are drawn and warped at twice the size, then averaged down: smooth edges.
_GLYPH_SIZE = 2 * IMAGE_SIZE
_INK_HEIGHT = 40
# Strokes bend by up to this share of half the image, a little like handwriting.
_BEND = 0.08


def font_folder() -> Path:
    """Return the folder of matplotlib's TrueType fonts.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    with needs("matplotlib", "report"):
        import matplotlib
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def draw_glyphs(fonts: tuple[str, ...]) -> Tensor:
    """Draw the digits of each font, centred, equally high, ink 1 on paper 0.

    Args:
        fonts: file names in matplotlib's font folder.

    Returns:
        `[len(fonts), 10, 56, 56]`, float32.

    Raises:
        ConfigError: matplotlib or Pillow is not installed.
        DataError: A font file is missing.
    """
    folder = font_folder()
    for font in fonts:
        if not (folder / font).is_file():
            raise DataError(
                f"Font {font} is missing from {folder}: reinstall matplotlib "
                "(pip install --force-reinstall 'matplotlib>=3.8')."
            )
    return torch.stack([torch.stack([_draw(folder / f, str(d)) for d in range(10)]) for f in fonts])


def _draw(font: Path, character: str) -> Tensor:
    """Draw one character as ink, `[56, 56]`."""
    with needs("pillow", "vision"):
        from PIL import Image, ImageDraw, ImageFont

    # Fonts fill their em square differently: measure the ink, then draw at the size that fits.
    left, top, right, bottom = ImageFont.truetype(str(font), 100).getbbox(character)
    size = 100 * _INK_HEIGHT / (bottom - top)
    truetype = ImageFont.truetype(str(font), round(size))
    left, top, right, bottom = truetype.getbbox(character)
    image = Image.new("L", (_GLYPH_SIZE, _GLYPH_SIZE))
    corner = ((_GLYPH_SIZE - left - right) / 2, (_GLYPH_SIZE - top - bottom) / 2)
    ImageDraw.Draw(image).text(corner, character, fill=255, font=truetype)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)


def render(fonts: tuple[str, ...], per_digit: int, seed: int) -> LabelledImages:
    """Return a balanced set of varied digits of some fonts.

    Args:
        fonts: file names in matplotlib's font folder; images take them in turn.
        per_digit: images of each digit.
        seed: of the variation; the same seed gives the same images.

    Returns:
        `10 * per_digit` images `[1, 28, 28]` in [0, 1].
    """
    glyphs = draw_glyphs(fonts)
    labels = torch.arange(10).repeat(per_digit)
    chosen = torch.arange(10 * per_digit) // 10 % len(fonts)
    generator = torch.Generator().manual_seed(seed)
    return LabelledImages(vary(glyphs[chosen, labels], generator), labels)


def vary(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Turn masks of ink into images that differ in slant, stroke, ink, paper, blur and noise.

    Args:
        ink: `[N, 56, 56]` in [0, 1].
        generator: where every draw comes from.

    Returns:
        `[N, 1, 28, 28]` in [0, 1].
    """
    count = len(ink)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=generator)

    ink = _change_stroke(ink[:, None], uniform(-1.0, 2.0))
    ink = _warp(ink, uniform, generator)
    ink = F.avg_pool2d(ink, 2)
    ink = torch.lerp(ink, _blur(ink), uniform(0.0, 1.0))

    paper = uniform(0.0, 0.35) + uniform(0.0, 0.3) * _ramp(uniform(0.0, 2 * math.pi))
    contrast = uniform(0.5, 1.0)
    images = paper + contrast * (1 - paper) * ink
    images = torch.where(uniform(0.0, 1.0) < 0.2, 1 - images, images)
    noise = torch.empty_like(images).normal_(generator=generator)
    return (images + uniform(0.0, 0.12) * noise).clamp(0, 1)


def _change_stroke(ink: Tensor, amount: Tensor) -> Tensor:
    """Thin (amount -1) or thicken (amount 1, 2) the strokes, with everything between."""
    thicker = F.max_pool2d(ink, 3, stride=1, padding=1)
    thickest = F.max_pool2d(thicker, 3, stride=1, padding=1)
    thinner = -F.max_pool2d(-ink, 3, stride=1, padding=1)
    ink = torch.lerp(ink, thinner, (-amount).clamp(0, 1))
    ink = torch.lerp(ink, thicker, amount.clamp(0, 1))
    return torch.lerp(ink, thickest, (amount - 1).clamp(0, 1))


def _warp(
    ink: Tensor, uniform: Callable[[float, float], Tensor], generator: torch.Generator
) -> Tensor:
    """Rotate, shear, stretch, move, and bend smoothly."""
    angle, shear = uniform(-0.3, 0.3), uniform(-0.3, 0.3)
    width, height = 1 / uniform(0.6, 1.1), 1 / uniform(0.8, 1.2)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.cat([width * cos, width * (shear * cos - sin), uniform(-0.1, 0.1)], dim=3),
        torch.cat([height * sin, height * (shear * sin + cos), uniform(-0.1, 0.1)], dim=3),
    ]
    theta = torch.cat(rows, dim=2)[:, 0]
    grid = F.affine_grid(theta, list(ink.shape), align_corners=False)
    bend = torch.empty(len(ink), 2, 4, 4).uniform_(-_BEND, _BEND, generator=generator)
    bend = F.interpolate(bend, ink.shape[-2:], mode="bicubic", align_corners=False)
    return F.grid_sample(ink, grid + bend.movedim(1, 3), align_corners=False)


def _blur(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.avg_pool2d(images, 5, 1, 2), 3, 1, 1)


def _ramp(direction: Tensor) -> Tensor:
    """Return linear ramps in [-0.7, 0.7] across the image, `[N, 1, 28, 28]`."""
    axis = torch.linspace(-0.5, 0.5, IMAGE_SIZE)
    return direction.cos() * axis + direction.sin() * axis[:, None]
