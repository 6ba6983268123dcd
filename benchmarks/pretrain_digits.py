"""Pretrain the digits benchmark's model on digits drawn from fonts.

    python benchmarks/pretrain_digits.py

takes about five minutes on one idle core (the logged run shared its core) and writes the weights
that ship with gmixout (float16) and a log. The same seed gives the same images in the same order.
"""

import argparse
import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

from gmixout.data import digits
from gmixout.data.glyphs import PRETRAINING_FONTS, draw_glyphs, render, vary
from gmixout.models.digits_vit import WEIGHTS, architecture

LOG = Path(__file__).parent / "results" / "pretrain_digits.log"
PACKAGES = ("torch", "timm", "matplotlib", "pillow", "scikit-learn")
# Centred inputs more than halve the steps that are needed; the saved model takes images in [0, 1].
CENTRE, SCALE = 0.5, 4.0


def pretrain(steps: int, batch_size: int, lr: float, seed: int) -> nn.Module:
    """Train from scratch with AdamW, a warm-up and a cosine decay, on new images at each step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture()
    generator = torch.Generator().manual_seed(seed)
    glyphs = draw_glyphs(PRETRAINING_FONTS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    warmup = max(1, steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in track(range(steps), description="pretraining"):
        labels = torch.randint(10, (batch_size,), generator=generator)
        fonts = torch.randint(len(glyphs), (batch_size,), generator=generator)
        images = vary(glyphs[fonts, labels], generator)
        loss = F.cross_entropy(model(SCALE * (images - CENTRE)), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    fold_normalisation_(model.patch_embed.proj)
    return model.eval()


@torch.no_grad()
def fold_normalisation_(first: nn.Conv2d) -> None:
    """Make a layer do to images what it did to `SCALE * (images - CENTRE)`."""
    first.bias -= SCALE * CENTRE * first.weight.sum((1, 2, 3))
    first.weight *= SCALE


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images `[N, 1, 28, 28]` whose largest logit is their label's."""
    return (model(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Parse the arguments, pretrain, save, evaluate, log."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3500, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a step")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the weights")
    parser.add_argument("--log", type=Path, default=LOG, help="the log: one JSON object")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    model = pretrain(args.steps, args.batch_size, args.lr, args.seed)
    seconds = time.perf_counter() - start
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, args.out)

    # What ships is float16: evaluate exactly that.
    model.load_state_dict({name: value.float() for name, value in half.items()})
    data = digits()
    seen = render(PRETRAINING_FONTS, per_digit=100, seed=args.seed + 1_000_000)
    sets = {"pretraining_fonts": seen, "id_val": data.id_val, "id_test": data.id_test}
    record = {
        "settings": {
            name: value for name, value in vars(args).items() if name not in ("out", "log")
        },
        "seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": args.out.stat().st_size,
        "accuracy": {
            name: round(accuracy(model, part.images, part.labels), 4)
            for name, part in (sets | data.shifts | data.dev_shifts).items()
        },
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }
    args.log.write_text(json.dumps(record, indent=2) + "\n")
    print(args.log.read_text())


if __name__ == "__main__":
    main()
