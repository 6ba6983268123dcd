"""Training recipes: settings for a model, by its architecture and the number of training images.

Every value names its source. `docs/recipes.md` is this table with the reasons; rates are for AdamW
and full finetuning. Sources marked "not verified" were not read again when the table was made.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

CITATIONS: dict[str, str] = {
    "FLYP": "locuslab/FLYP, README.md (CVPR 2023): CLIP ViT-B/16, 1e-5, decay 0.1 or 0.2",
    "WiSE-FT": "mlfoundations/wise-ft, README.md and src/models/finetune.py (arXiv 2109.01903): "
    "10 epochs, cosine, gradient norm clipped to 1, head and backbone at one rate",
    "LT-Soups": "Masseeh/LT-Soups, scripts/run_lt_soups.sh and utils/config.py: 10 epochs, batch "
    "128",
    "open_clip": "mlfoundations/open_clip, src/open_clip/transform.py: crops of 0.9 to 1, no flips",
    "SigLIP": "arXiv 2303.15343: no weight decay on pretrained image encoders (not verified)",
    "DeiT III": "facebookresearch/deit, README_revenge.md: finetuning at 1e-5, decay 0.1, 20 "
    "epochs; DINOv2's paper (arXiv 2304.07193) says it finetunes by it (not verified)",
    "MAE": "facebookresearch/mae, FINETUNE.md: ViT-B 5e-4 * batch / 256, layer decay 0.65 to "
    "0.75, decay 0.05",
    "ConvNeXt": "facebookresearch/ConvNeXt, TRAINING.md: from ImageNet-22K 5e-5, layer decay 0.8, "
    "decay 1e-8",
    "DomainBed": "facebookresearch/DomainBed, domainbed/hparams_registry.py and datasets.py: "
    "ResNet-50 at 5e-5, no decay, batch 32, crops of 0.7 to 1, flips",
    "AutoGluon": "autogluon/autogluon, multimodal/configs/optim/default.yaml: 20 epochs, warm-up "
    "10%, gradient norm clipped to 1",
    "BiT": "google-research/big_transfer, bit_hyperrule.py (read in a copy): sizes of 20,000 and "
    "500,000 images, at least 500 steps",
    "transformers": "huggingface/transformers, examples/pytorch/image-classification/README.md: "
    "ViT-B at 2e-5",
    "LP-FT": "arXiv 2202.10054: a random head distorts the features (not verified)",
    "ours": "our choice, without a published figure",
}
"""Where the values come from."""


class Value(NamedTuple):
    """A setting's value and its source."""

    value: Any
    source: str
    """A name in `CITATIONS`."""
    note: str = ""


Recipe: TypeAlias = dict[str, Value]
"""Values by the names of settings."""

RECIPES: dict[str, Recipe] = {
    "clip": {
        "lr": Value(1e-5, "FLYP"),
        "weight_decay": Value(0.1, "FLYP"),
        "crop_scale": Value(0.9, "open_clip"),
        "flip": Value(False, "open_clip"),
        "max_grad_norm": Value(1.0, "WiSE-FT"),
    },
    "siglip": {
        "lr": Value(1e-5, "FLYP", "CLIP's, no published figure for SigLIP is known to us"),
        "weight_decay": Value(0.0, "SigLIP"),
        "crop_scale": Value(0.9, "open_clip"),
        "flip": Value(False, "open_clip"),
        "max_grad_norm": Value(1.0, "WiSE-FT"),
    },
    "dino": {
        "lr": Value(1e-5, "DeiT III"),
        "weight_decay": Value(0.1, "DeiT III"),
        "crop_scale": Value(0.7, "DomainBed"),
        "flip": Value(True, "DomainBed"),
        "max_grad_norm": Value(1.0, "AutoGluon"),
    },
    "vit": {
        "lr": Value(1e-4, "MAE", "its rate for a batch of 51"),
        "layer_decay": Value(0.75, "MAE"),
        "weight_decay": Value(0.05, "MAE"),
        "crop_scale": Value(0.7, "DomainBed"),
        "flip": Value(True, "DomainBed"),
        "max_grad_norm": Value(1.0, "AutoGluon"),
    },
    "convnext": {
        "lr": Value(5e-5, "ConvNeXt"),
        "layer_decay": Value(0.8, "ConvNeXt"),
        "weight_decay": Value(1e-8, "ConvNeXt"),
        "crop_scale": Value(0.7, "DomainBed"),
        "flip": Value(True, "DomainBed"),
        "max_grad_norm": Value(1.0, "AutoGluon"),
    },
    "cnn": {
        "lr": Value(5e-5, "DomainBed"),
        "weight_decay": Value(0.0, "DomainBed"),
        "crop_scale": Value(0.7, "DomainBed"),
        "flip": Value(True, "DomainBed"),
        "max_grad_norm": Value(1.0, "AutoGluon"),
    },
    "other": {
        "lr": Value(1e-5, "ours", "cautious, as the architecture is not known"),
        "weight_decay": Value(0.0, "ours"),
        "crop_scale": Value(0.7, "DomainBed"),
        "flip": Value(True, "DomainBed"),
        "max_grad_norm": Value(1.0, "AutoGluon"),
    },
}
"""Settings by architecture, see `models.architectures`."""

WITHOUT_LAYERS = Value(2e-5, "transformers", "the order of the model's layers is not known")
"""Learning rate in place of a recipe's with a layer decay, where that is impossible."""


@dataclass(frozen=True)
class Size:
    """Settings by the number of training images."""

    below: float
    """Images below which this holds."""
    batch_size: Value
    epochs: Value


DATA_SIZES = (
    Size(2_000, Value(32, "DomainBed"), Value(40, "ours", "100 in FLYP's transfer runs")),
    Size(20_000, Value(64, "ours"), Value(20, "AutoGluon", "also FLYP's of iWildCam and FMoW")),
    Size(float("inf"), Value(128, "LT-Soups"), Value(10, "WiSE-FT", "also LT-Soups'")),
)
"""By the number of images; the limit of 20,000 is BiT's."""

NO_LAYERS = Value(1.0, "ours", "the order of the model's layers is not known")
LEAST_STEPS = Value(200, "ours", "500 in BiT")
"""Fewest steps, for very few images."""
WARMUP_SHARE = Value(0.05, "ours", "WiSE-FT's 2% on ImageNet, 10% in AutoGluon")
"""Share of the steps for the warm-up."""
SHORT_RUN = Value(None, "ours", "10 periods in the run: fewer were not measured, docs/real.md")
"""Reason of a period shorter than a method's default."""
HEAD_LR = Value(1e-3, "ours", "the head starts random; one that knows the classes has lr")
"""Learning rate of a random head."""


RATES = (1 / 3, 1.0, 3.0)
"""Learning rates of a comparison, relative to the recipe's."""


def size_of(images: int) -> Size:
    """Return the settings for a number of training images."""
    return next(size for size in DATA_SIZES if images < size.below)
