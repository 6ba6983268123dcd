"""The digits benchmark: a foundation model's story in miniature, with nothing to download.

A tiny vision transformer, pretrained on digits drawn from fonts, is finetuned on real handwriting.
How much of fonts it never saw, and of spoilt handwriting, can it still read afterwards?

- Input: grey images `[1, 28, 28]`, float32 in [0, 1], mostly light ink on dark paper.
- Labels: 0 to 9, the digit. Metric: accuracy. Chance: 0.1.
- In domain: the 1,797 handwritten digits of `sklearn.datasets.load_digits`, 8x8 enlarged to 28x28.
  Stratified splits by a fixed seed: 300 train, 400 id_val, 1,097 id_test.
- Shifts, reported: `corrupted/1`, `corrupted/2`, `corrupted/3` (id_test, each image corrupted by
  one kind of `digits_corruptions.REPORTED`, at that severity) and `fonts` (1,000 drawn digits of
  `glyphs.HELD_OUT_FONTS`, varied as in pretraining).
- Shifts to develop on, never reported: `dev_corrupted/1` to `/3` (id_val,
  `digits_corruptions.DEV`) and `dev_fonts` (`glyphs.DEV_FONTS`).
- Foundation: 0.45 M parameters, pretrained by `benchmarks/pretrain_digits.py` on
  `glyphs.PRETRAINING_FONTS`; its log is `benchmarks/results/pretrain_digits.log`.

Licence: the handwritten digits are CC BY 4.0 and come with scikit-learn; the fonts come with
matplotlib under their own free licences, and no glyph of theirs is shipped here.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998, https://doi.org/10.24432/C50P49 (its test part).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from gmixout.data.base import Benchmark, LabelledImages
from gmixout.data.digits_corruptions import DEV, REPORTED, SEVERITIES, corrupt
from gmixout.data.glyphs import DEV_FONTS, HELD_OUT_FONTS, IMAGE_SIZE, render
from gmixout.errors import needs

WEIGHTS = Path(__file__).with_name("digits_vit.safetensors")
TRAIN_COUNT, VAL_COUNT = 300, 400
FONT_IMAGES_PER_DIGIT = 100
# Every part of the data has a seed of its own; none is the seed of a training run.
SPLIT_SEED, FONTS_SEED, DEV_FONTS_SEED, CORRUPTION_SEED = 1998, 1, 2, 3


def digits() -> Benchmark:
    """Load the digits benchmark (see the module's docstring); takes a few seconds.

    Raises:
        ConfigError: scikit-learn, matplotlib or timm is not installed.
        DataError: A font is missing.
    """
    train, id_val, id_test = _handwriting()
    shifts = {f"corrupted/{s}": corrupt(id_test, REPORTED, s, CORRUPTION_SEED) for s in SEVERITIES}
    dev = {f"dev_corrupted/{s}": corrupt(id_val, DEV, s, CORRUPTION_SEED) for s in SEVERITIES}
    return Benchmark(
        name="digits",
        classes=tuple("0123456789"),
        train=train,
        id_val=id_val,
        id_test=id_test,
        shifts=shifts | {"fonts": render(HELD_OUT_FONTS, FONT_IMAGES_PER_DIGIT, FONTS_SEED)},
        dev_shifts=dev | {"dev_fonts": render(DEV_FONTS, FONT_IMAGES_PER_DIGIT, DEV_FONTS_SEED)},
        foundation=foundation,
    )


def architecture() -> nn.Module:
    """The vision transformer with new weights, drawn from torch's global generator."""
    with needs("timm", "vision"):
        from timm.models import VisionTransformer
    return VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=7,
        in_chans=1,
        num_classes=10,
        embed_dim=96,
        depth=4,
        num_heads=4,
    )


def foundation() -> nn.Module:
    """The pretrained model: float32, eval mode, its `head` the zero-shot classifier."""
    # The new weights are overwritten at once: the draws for them must not move anybody's generator.
    with torch.random.fork_rng(devices=[]):
        model = architecture()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


def _handwriting() -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """The real digits: train, validation and test part."""
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
    """`[N, 8, 8]` to `[N, 1, 28, 28]`."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return F.interpolate(images[:, None], size, mode="bilinear", align_corners=False)
