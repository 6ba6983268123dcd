"""ImageNet-LT: a long-tailed subset of ImageNet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from gmixout.data.base import Benchmark
from gmixout.data.folders import classes_of_lists, find, read_list
from gmixout.data.imagenet import ImageNet, class_names
from gmixout.data.sampling import SHOT_NAMES, shot_groups
from gmixout.data.source import ImageBenchmark, Problems


@dataclass(frozen=True, kw_only=True)
class imagenet_lt(ImageNet):
    """ImageNet-LT: 5 to 1,280 training images per class.

    - Input: RGB photographs of many sizes. Labels: 1000 classes, by the lists' numbers.
    - Files: `ImageNet_LT_{train,val,test}.txt` in the root, in `ImageNet_LT/` there or beside
      ImageNet's `train/`, with lines `{train,val}/<wnid>/<file> <label>` (or `val/<file>`) from
      the folder of ImageNet on.
    - Splits: train (115,846 images), id_val (20,000, 20 a class), id_test (50,000, ImageNet's
      validation images). No shifts.
    - Metric: accuracy, and that of the classes with many, medium and few training images.
    - Licence: ImageNet's terms of access; the lists: BSD 3-clause. Size: as ImageNet.

    Args:
        shots: Whose limits separate many, medium and few: `oltr` (many from 100, few up to 20)
            or `lift` (many above 100, few below 20).

    Source: Liu, Miao, Zhan, Wang, Gong and Yu, "Large-Scale Long-Tailed Recognition in an Open
        World", CVPR 2019.
    """

    shots: Literal["oltr", "lift"] = "oltr"

    download_hint = (
        "https://github.com/zhmiao/OpenLongTailRecognition-OLTR (the lists ImageNet_LT_*.txt), and "
        "ImageNet: https://image-net.org"
    )
    official: ClassVar[Mapping[str, int]] = {
        "classes": 1000,
        "train": 115_846,
        "val": 20_000,
        "test": 50_000,
    }

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the lists, and whether their images are there."""
        root = self.imagenet_root(problems)
        parts = {}
        for part in ("train", "val", "test"):
            parts[part] = read_list(self._list(part, root, problems), root, problems)
            self._count(problems, part, len(parts[part]), f"number of images in the {part} list")
        # ImageNet's validation images may lie in one folder, which says nothing of a class
        flat = any(path.split("/")[-2] == "val" for path in parts["test"].paths)
        sorted_by_class = {n: part for n, part in parts.items() if n != "test" or not flat}
        classes = classes_of_lists(sorted_by_class, problems)
        self._count(problems, "classes", len(classes), "number of classes in the lists")
        if above := [label for label in parts["test"].labels if label >= len(classes)]:
            problems.add(
                f"id_test: {len(above)} labels are out of range, {above[0]} among them; in the "
                f"other lists labels go from 0 to {len(classes) - 1}"
            )
        problems.settle(self)
        train = parts["train"].images()
        counts = train.labels.bincount(minlength=len(classes))
        groups = shot_groups(counts, self.shots)[parts["test"].labels]
        names = class_names(root)
        return Benchmark(
            name=str(self),
            classes=tuple(names.get(wnid, wnid) for wnid in classes),
            train=train,
            id_val=parts["val"].images(),
            id_test=parts["test"].images().grouped(groups, SHOT_NAMES),
            shifts={},
            extra_metrics=("many_shot", "medium_shot", "few_shot"),
            notes=(f"many, medium and few shot by the limits of {self.shots}",),
        )

    def _list(self, part: str, root: Path, problems: Problems) -> Path:
        name = f"ImageNet_LT_{part}.txt"
        folders = (self.root, find(self.root, "ImageNet_LT"), root, find(root, "ImageNet_LT"))
        for folder in folders:
            if folder is not None and (folder / name).is_file():
                return folder / name
        problems.fail(self, f"there is no {self.root / name}")
