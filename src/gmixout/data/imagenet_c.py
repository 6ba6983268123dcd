"""ImageNet-C: ImageNet's validation images, corrupted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from gmixout.data.common_corruptions.constants import EXTRA_KINDS, KINDS, SEVERITIES
from gmixout.data.folders import Listing, find, subfolders
from gmixout.data.imagenet import ImageNet
from gmixout.data.images import ImageFiles
from gmixout.data.source import ImageBenchmark, Problems


@dataclass(frozen=True, kw_only=True)
class imagenet_c(ImageNet):
    """ImageNet-C: 15 kinds of corruption at 5 severities.

    - Input: RGB, 224x224. Labels: ImageNet's 1000 classes.
    - Files: `<root>/ImageNet-C/<kind>/<1..5>/<wnid>/*` (or with the archives' folders noise, blur,
      weather, digital, extra above the kinds), and ImageNet itself as `imagenet` has it.
    - Domains: shifts are called `<kind>/<severity>`, 50,000 images each.
    - Splits: id_val is held out from ImageNet's train, id_test its validation set.
    - Metric: accuracy of each, and over all of them the mean corruption error divided by AlexNet's
      (`mce_alexnet`).
    - Licence: CC BY 4.0, and ImageNet's terms of access. Size: about 80 GB (15 kinds).

    Args:
        val_share: Share of ImageNet's training images for in-domain validation.
        extra: Also the four extra kinds, as development shifts (`dev/...` in `gmixout evaluate`),
            which no comparison reports: their authors set them aside for choices.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
        and Perturbations", ICLR 2019.
    """

    val_share: float = 0.02
    extra: bool = False

    download_hint = (
        "https://zenodo.org/record/2235448 (ImageNet-C), and ImageNet: https://image-net.org"
    )
    official: ClassVar[Mapping[str, int]] = {**ImageNet.official, "corrupted": 50_000}

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at ImageNet and its corrupted copies."""
        labels, benchmark = self.in_domain(self.val_share, problems)
        root = find(self.root, "ImageNet-C")
        if root is None:
            problems.fail(self, f"there is no folder {self.root / 'ImageNet-C'}")
        places = [root, *(root / name for name in subfolders(root) if name not in KINDS)]
        sets = {}
        for kind in KINDS + EXTRA_KINDS if self.extra else KINDS:
            folder = next((place / kind for place in places if (place / kind).is_dir()), None)
            if folder is None:
                problems.add(f"there is no folder {root / kind}")
                continue
            for severity in SEVERITIES:
                sets[f"{kind}/{severity}"] = self._one(folder / str(severity), labels, problems)
        problems.settle(self)
        return replace(
            benchmark,
            shifts=_of_kinds(KINDS, sets),
            dev_shifts=_of_kinds(EXTRA_KINDS, sets),
            summary="mce_alexnet",
        )

    def _one(self, folder: Path, labels: Mapping[str, int], problems: Problems) -> ImageFiles:
        if not folder.is_dir():
            problems.add(f"there is no folder {folder}")
            return Listing(folder).images()
        listing = self.all_classes(folder, labels, problems)
        self._count(problems, "corrupted", len(listing), f"number of images in {folder}")
        return listing.images()


def _of_kinds(kinds: tuple[str, ...], sets: Mapping[str, ImageFiles]) -> dict[str, ImageFiles]:
    return {name: images for name, images in sets.items() if name.split("/")[0] in kinds}
