"""Small finished runs."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gmixout.cli import main
from gmixout.models import load_pretrained
from gmixout.plain import bounded
from gmixout.results.model_file import save_model
from gmixout.weightspace import fingerprint

CLASSES = ("blue sky", 'red, "soil"')


def pictures(root: Path, rng: np.random.Generator) -> Path:
    """Images `train/val/test/<class>/`, of several sizes, and one on its side by its EXIF data."""
    for part, count in (("train", 8), ("val", 8), ("test", 12)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (int(rng.integers(30, 60)), int(rng.integers(30, 60)), 3)
                pixels = rng.integers(0, 256, size)
                odd = number % 5 == 4  # looks like one of the other class
                pixels[..., 2 - 2 * (label ^ odd)] += rng.integers(0, 90)
                exif = Image.Exif()
                exif[0x0112] = 6 if number % 3 == 0 else 1
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.save(folder / f"{number:02}.jpg", exif=exif, quality=95)
    return root


def finetuned(out: Path, photos: Path, model: str, *words: str) -> Path:
    """A run of a few steps."""
    data = ["--benchmark", "imagefolder", "--data-root", str(photos), "--model", model]
    few = ["--steps", "6", "--batch-size", "8", "--method", "full", "--lr", "1e-2"]
    assert main(["finetune", *data, *few, *words, "--out", str(out)]) == 0
    return out


def saved(folder: Path, name: str, image_size: int | None = None) -> Path:
    """A model file as a run leaves it, with other weights than those of its pretrained model."""
    start = load_pretrained(name, CLASSES, "random", image_size=image_size)
    before = start.model.state_dict()
    state = {
        key: value + 0.1 * torch.randn_like(value) if value.ndim > 1 else value
        for key, value in before.items()
    }
    about = {
        "benchmark": "mine", "run": "0" * 12, "method": "full", "options": {},
        "pretrained": fingerprint(before), "classes": list(CLASSES),
        "task": {"benchmark": {"class_path": "imagefolder"}, "model": name,
                 "image_size": image_size},
        "architecture": bounded(dict(start.architecture)),
    }  # fmt: skip
    digest = save_model(folder / "model.safetensors", state, about)
    held = {"model": digest, "temperature": 2.5, "images": 9, "nll": [1.0, 0.9], "ece": [0.1, 0.0]}
    (folder / "calibration.json").write_text(json.dumps(held))
    return folder
