"""The digits benchmark: robust finetuning in miniature, with nothing to download.

A tiny vision transformer, pretrained on digits drawn from fonts (`gmixout.models.digits_vit`), is
finetuned on real handwriting. How well does it still read unseen fonts and corrupted handwriting
afterwards?

- Input: grey images `[1, 28, 28]`, float32 in [0, 1], mostly light ink on dark paper.
- Labels: 0 to 9, the digit. Metric: accuracy. Chance: 0.1.
- In domain: the 1,797 handwritten digits of `sklearn.datasets.load_digits`, 8x8 enlarged to 28x28.
  Stratified splits by a fixed seed: 300 train, 400 id_val, 1,097 id_test.
- Shifts, reported: `corrupted/1`, `corrupted/2`, `corrupted/3` (id_test, each image corrupted by
  one kind of `digits_corruptions.REPORTED`, at that severity) and `fonts` (1,000 drawn digits of
  `glyphs.HELD_OUT_FONTS`, varied as in pretraining).
- Shifts to develop on, never reported: `dev_corrupted/1` to `/3` (id_val,
  `digits_corruptions.DEV`) and `dev_fonts` (`glyphs.DEV_FONTS`).

Licence: the handwritten digits are CC BY 4.0 and come with scikit-learn; the fonts come with
matplotlib under their own free licences, and no glyph of theirs is shipped here.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998, https://doi.org/10.24432/C50P49 (its test part).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gmixout.data.base import Benchmark, LabelledImages
from gmixout.data.digits_corruptions import DEV, DIGITS_SEVERITIES, REPORTED, corrupt_digits
from gmixout.data.glyphs import DEV_FONTS, HELD_OUT_FONTS, IMAGE_SIZE, render
from gmixout.errors import needs

TRAIN_COUNT, VAL_COUNT = 300, 400
FONT_IMAGES_PER_DIGIT = 100
# Every part of the data has its own seed; none is the seed of a training run.
SPLIT_SEED, FONTS_SEED, DEV_FONTS_SEED, CORRUPTION_SEED = 1998, 1, 2, 3


def digits() -> Benchmark:
    """Load the digits benchmark (see the module's docstring); takes a few seconds.

    Raises:
        ConfigError: scikit-learn or matplotlib is not installed.
        DataError: A font is missing.
    """
    train, id_val, id_test = _handwriting()
    shifts = {
        f"corrupted/{s}": corrupt_digits(id_test, REPORTED, s, CORRUPTION_SEED)
        for s in DIGITS_SEVERITIES
    }
    dev = {
        f"dev_corrupted/{s}": corrupt_digits(id_val, DEV, s, CORRUPTION_SEED)
        for s in DIGITS_SEVERITIES
    }
    return Benchmark(
        name="digits",
        classes=tuple("0123456789"),
        train=train,
        id_val=id_val,
        id_test=id_test,
        shifts=shifts | {"fonts": render(HELD_OUT_FONTS, FONT_IMAGES_PER_DIGIT, FONTS_SEED)},
        dev_shifts=dev | {"dev_fonts": render(DEV_FONTS, FONT_IMAGES_PER_DIGIT, DEV_FONTS_SEED)},
    )


def _handwriting() -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """Return the real digits: train, validation and test part."""
    with needs("scikit-learn", "vision"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    bunch = load_digits()
    labels = torch.from_numpy(bunch.target).long()
    images = _enlarge(torch.from_numpy(bunch.images).float() / 16)
    rest, train = train_test_split(
        range(len(labels)), test_size=TRAIN_COUNT, stratify=labels, random_state=SPLIT_SEED
    )
    test, val = train_test_split(
        rest, test_size=VAL_COUNT, stratify=labels[rest], random_state=SPLIT_SEED
    )
    parts = (LabelledImages(images[part], labels[part]) for part in (train, val, test))
    return next(parts), next(parts), next(parts)


def _enlarge(images: Tensor) -> Tensor:
    """Enlarge `[N, 8, 8]` to `[N, 1, 28, 28]`."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return F.interpolate(images[:, None], size, mode="bilinear", align_corners=False)
