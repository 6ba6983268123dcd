"""Pretrain a small model for PACS and CIFAR-10, as CLIP is one for anything.

    python benchmarks/pacs/pretrain.py cnn --data DIR
    python benchmarks/pacs/pretrain.py vit --data DIR

DIR holds PACS/, caltech101/all.parquet and cifar10/{train,test}.parquet. The model learns the
classes of all three at once (a class of one name is one class: PACS's dogs and CIFAR-10's), from
the first half of PACS's images of every domain that is there, the first half of CIFAR-10's training
images, and Caltech-101 but for a held-out tenth and the classes that share photographs with PACS
(which draws on Caltech-256). So it comes to PACS with broad knowledge of all domains and a
classifier that knows its classes. On one core the CNN takes about 40 minutes, the ViT 50; both at a
time fit two. Ctrl-C and kill lose at most 200 steps: the same command goes on.

The result is a folder in timm's form with log.json in it, in gmixout's cache folder unless --out
names another. The benchmarks pacs and cifar10 take `cnn` from there when no --model is given; the
other is `--model timm:~/.cache/gmixout/pacs-foundation/vit`.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
from rich.progress import Progress
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from gmixout.data import SOURCES
from gmixout.data.images import ImageSet
from gmixout.data.parquet import read_parquet
from gmixout.data.sampling import SPLIT_SEED, in_half, stratified
from gmixout.files import cache_folder
from gmixout.methods.full import full
from gmixout.models import Pretrained
from gmixout.training import TrainingArguments, train

SIZE = 64
MEAN = STD = (0.5, 0.5, 0.5)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (32, 64, 160, 384)}),
    "vit": ("vit_tiny_r_s16_p8_224", {"img_size": SIZE, "patch_size": 4, "depth": 6}),
}
"""A ResNet of one basic block a stage, 2.4 M parameters, and a ViT of 16 patches, 2.9 M.

The ViT looks at its patches through one convolution, as in "Early Convolutions Help Transformers
See Better" (Xiao et al., NeurIPS 2021); without it, it learns too little in the time.
"""
HEADS = {"cnn": "fc", "vit": "head"}
"""What timm calls their classifiers."""
PACS_REPEATS = 2
"""PACS's images are few: each is shown this often where another is shown once."""
LEFT_OUT = ("BACKGROUND_Google", "Faces", "Faces_easy", "elephant", "electric_guitar")
"""Classes of Caltech-101 that are no class, or whose photographs are in PACS, too."""
HELD_OUT = 0.1
"""Share of Caltech-101 that is only looked at in the end."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures of several data sets in memory, each seen through a new random crop every time."""

    def __init__(self, parts: Sequence[tuple[ImageSet, Sequence[str]]], names: Sequence[str]):
        self.crop = v2.Compose(
            [
                v2.RandomResizedCrop(SIZE, scale=(0.35, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomGrayscale(0.1),
            ]
        )
        self.pictures, self.labels = [], []
        for images, classes in parts:
            for index in range(len(images)):
                self.pictures.append(functional.pil_to_tensor(images.picture(index)))
                self.labels.append(names.index(classes[int(images.labels[index])]))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return normalised(self.crop(self.pictures[index])), self.labels[index]


def normalised(picture: Tensor) -> Tensor:
    """`[3, H, W]`, uint8, as the model takes it."""
    return functional.normalize(picture.float() / 255, MEAN, STD)


def pacs_half(root: Path, half: str) -> tuple[dict[str, ImageSet], tuple[str, ...]]:
    """Half of the images of every domain, and the class names."""
    source = SOURCES["pacs"]
    domains: dict[str, ImageSet] = {}
    for domain in ("photo", "art_painting", "cartoon", "sketch"):
        if (root / domain).is_dir():
            splits = source(root, train_domain=domain, half=half).load()
            parts = (splits.train, splits.id_val, splits.id_test)
            domains |= {f"{domain}/{n}": part for n, part in enumerate(parts)}
    return domains, splits.classes


def network(architecture: str, classes: int) -> nn.Module:
    """A new model."""
    name, options = ARCHITECTURES[architecture]
    return timm.create_model(name, num_classes=classes, **options)


@torch.inference_mode()
def accuracy(model: nn.Module, images: ImageSet, labels: Tensor, among: Sequence[int]) -> float:
    """Share of the pictures whose largest logit, of some classes, is that of their label."""
    right = 0
    for start in range(0, len(images), 128):
        indices = range(start, min(start + 128, len(images)))
        pictures = [functional.pil_to_tensor(images.picture(index)) for index in indices]
        sized = [functional.resize(p, [SIZE, SIZE], antialias=True) for p in pictures]
        logits = model(torch.stack([normalised(picture) for picture in sized]))
        mask = torch.full((logits.shape[1],), -torch.inf)
        mask[list(among)] = 0
        right += int(((logits + mask).argmax(1) == labels[start : start + 128]).sum())
    return right / len(images)


def save(model: nn.Module, architecture: str, names: Sequence[str], folder: Path) -> None:
    """Writes a model as timm does, with what it has to know of its input and its classes."""
    preprocessing = {
        "tag": "gmixout",
        "license": None,
        "origin_url": None,
        "paper_ids": None,
        "input_size": (3, SIZE, SIZE),
        "test_input_size": None,
        "mean": MEAN,
        "std": STD,
        "crop_pct": 1.0,
        "test_crop_pct": None,
        "interpolation": "bilinear",
    }
    save_for_hf(
        model.to(memory_format=torch.contiguous_format),
        str(folder),
        model_config={"pretrained_cfg": preprocessing, "label_names": names},
        model_args=ARCHITECTURES[architecture][1],
        safe_serialization=True,
    )


def main() -> None:
    """Parse the arguments, pretrain, evaluate, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("--data", type=Path, required=True, help="folder of the three data sets")
    parser.add_argument("--out", type=Path, default=cache_folder() / "pacs-foundation")
    parser.add_argument("--steps", type=int, default=5000, help="optimizer steps (default: 5000)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a step (default: 64)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak rate (default: 1e-3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    pacs, pacs_classes = pacs_half(args.data / "PACS", "first")
    unseen, _ = pacs_half(args.data / "PACS", "second")
    caltech, caltech_classes = read_parquet(args.data / "caltech101" / "all.parquet")
    objects = [i for i, name in enumerate(caltech_classes) if name not in LEFT_OUT]
    caltech = caltech.subset(torch.isin(caltech.labels, torch.tensor(objects)).nonzero().flatten())
    held, rest = (caltech.subset(p) for p in stratified(caltech.labels, (HELD_OUT,), SPLIT_SEED))
    cifar, cifar_classes = read_parquet(args.data / "cifar10" / "train.parquet")
    cifar = in_half(cifar, "first")
    cifar_test, _ = read_parquet(args.data / "cifar10" / "test.parquet")
    names = sorted({*pacs_classes, *cifar_classes, *(caltech_classes[i] for i in objects)})
    shown = [(rest, caltech_classes), (cifar, cifar_classes)]
    shown += [(part, pacs_classes) for part in pacs.values()] * PACS_REPEATS
    pictures = Pictures(shown, names)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        model = network(args.architecture, len(names))
    model = model.to(memory_format=torch.channels_last)  # a fifth less time for convolutions
    arguments = TrainingArguments(
        lr=args.lr,
        head_lr=args.lr,
        seed=args.seed,
        steps=args.steps,
        batch_size=args.batch_size,
        weight_decay=0.05,
        warmup_steps=args.steps // 20,
        label_smoothing=0.1,
        max_grad_norm=1.0,
        freeze_batch_norm=False,
        checkpoint_every_steps=200,
    )
    out = args.out / args.architecture
    out.mkdir(parents=True, exist_ok=True)
    start, method = time.perf_counter(), full()
    with Progress() as progress:
        task = progress.add_task(f"pretraining {args.architecture}", total=args.steps)
        result = train(
            Pretrained(model, HEADS[args.architecture], tuple(names)),
            partial(method.start, seed=args.seed),
            pictures,
            arguments,
            out / "checkpoint.pt",
            f"{args.architecture} {arguments.identity()}",
            lambda step, loss: progress.update(
                task,
                completed=step,
                description=f"pretraining {args.architecture}, loss {loss:.3f}",
            ),
        )

    sets = {f"PACS {name}": (images, pacs_classes) for name, images in unseen.items()}
    sets |= {
        "Caltech-101, held out": (held, caltech_classes),
        "CIFAR-10, test": (cifar_test, cifar_classes),
    }
    figures: dict[str, list[tuple[float, int]]] = {}
    for name, (images, classes) in sets.items():
        labels = torch.tensor([names.index(classes[int(label)]) for label in images.labels])
        among = [names.index(each) for each in classes if each in names]
        found = accuracy(result.model, images, labels, among), len(images)
        figures.setdefault(name.split("/")[0], []).append(found)
    save(result.model, args.architecture, names, out)
    log = {
        "settings": {n: v for n, v in vars(args).items() if n not in ("data", "out")},
        "images in a pass": len(pictures),
        "classes": len(names),
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "seconds of this process": round(time.perf_counter() - start, 1),
        "seconds of training": round(result.seconds, 1),
        "loss of the last 100 steps": round(fmean(result.losses[-100:]), 4),
        "zero-shot accuracy": {
            name: round(sum(a * n for a, n in found) / sum(n for _, n in found), 4)
            for name, found in figures.items()
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "timm", "gmixout")},
        },
    }
    (out / "log.json").write_text(json.dumps(log, indent=2) + "\n")
    (out / "checkpoint.pt").unlink(missing_ok=True)
    print((out / "log.json").read_text())


if __name__ == "__main__":
    main()
