"""Bytes that the ranks of a run exchange in a step: `python benchmarks/exchanged.py`.

Each rank hands on the gradients of what it trains; a communication hook of DistributedDataParallel
counts them. One process is enough to count: the amount does not depend on how many there are.
"""

import argparse
import json
import socket
from pathlib import Path

import timm
import torch
from _timing import describe_run
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gmixout.methods import get_method
from gmixout.models import Pretrained

METHODS = (
    "full",
    "lora(rank=8)",
    "mixout",
    "gmixout",
    "gmixout(mask_rate=0.9)",
    "gmixout(mask_rate=0.9,biases='masked')",
    "gmixout(mean_start_depth=0.5)",
)


def main() -> None:
    """Print a table, and write the raw values with `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="vit_small_patch16_224", help="a model of timm")
    parser.add_argument("--out", type=Path, help="JSON file for the raw values")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dist.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    counts = {name: exchanged(options.model, name) for name in METHODS}
    dist.destroy_process_group()
    print("| method | bytes a step | share of full finetuning's |")
    print("|---|---:|---:|")
    for name, count in counts.items():
        print(f"| {name} | {count:,} | {count / counts['full']:.3f} |")
    if options.out:
        about = {
            **describe_run(torch.device("cpu"), torch.get_num_threads()),
            "model": options.model,
            "bytes": counts,
        }
        options.out.write_text(json.dumps(about, indent=1) + "\n")


def exchanged(model: str, method: str) -> int:
    """Return the bytes of a step."""
    torch.manual_seed(0)
    net = timm.create_model(model, num_classes=10)
    pretrained = Pretrained(net, "head", tuple(map(str, range(10))), name=model)
    finetuning = get_method(method).start(pretrained, seed=0)
    groups = finetuning.param_groups(lr=1e-3)
    optimizer = finetuning.bind(torch.optim.AdamW(groups))
    parallel = DistributedDataParallel(net, find_unused_parameters=finetuning.skips_layers)
    found = 0

    def count(_: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        nonlocal found
        found += bucket.buffer().nbytes
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    parallel.register_comm_hook(None, count)
    for _ in range(2):  # in the first step, buckets are not yet what they will be
        found = 0
        parallel(torch.randn(2, *net.default_cfg["input_size"])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return found


if __name__ == "__main__":
    main()
