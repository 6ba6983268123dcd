"""Time each operation of the masking process beside the dense weight gradient of the same layer.

    python benchmarks/kernels.py --device cuda --dtype bfloat16 --batch 128

For layers of ViT-S/16, ViT-B/16 and ResNet-50, each structure and density: the masked weight
gradient (of rows and columns also with tokens in one piece and in several, the one that the
library does not use on this device), gathering and writing masked values, narrowing the input,
drawing a mask; as ratio to the dense gradient (cuBLAS, cuDNN, oneDNN) and, for products, as share
of the best that large square matrix products reach on the device in the same run. See README.md
beside this file.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _timing import describe_run, in_turn, spread, write_json
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.grad import conv2d_weight
from torch.utils.benchmark import Timer

from gmixout.core.masks import STRUCTURES, count_units, draw
from gmixout.kernels import products
from gmixout.kernels.products import ConvProduct, LayerProduct, LinearProduct
from gmixout.kernels.structures import Columns, Rows

RESULTS = Path("benchmarks/results/kernels.json")
DTYPES = ("float32", "bfloat16", "float16")
DENSITIES = [0.05, 0.1, 0.5]
BLOCK_SIZE = 16
PEAK_SIDES = {"cpu": [512, 1024, 2048], "cuda": [4096, 8192, 16384]}
TOKENS = 197
"""Of an image of 224 pixels in patches of 16, and one for the class."""
OPERATIONS = ("gradient", "split otherwise", "narrow", "gather", "scatter_", "draw")


@dataclass(frozen=True)
class Layer:
    """A layer by its weight `[O, I, *k]` and, for a convolution, the side of its input's images."""

    weight: tuple[int, ...]
    side: int = 0
    stride: int = 1

    @property
    def product(self) -> LayerProduct:
        """How its weight gradient arises; a convolution keeps the side, but for its stride."""
        if not self.side:
            return LinearProduct()
        kernel = self.weight[2:]
        padding = tuple(k // 2 for k in kernel)
        product = ConvProduct(kernel, (self.stride,) * 2, padding, (1, 1), groups=1)
        images = torch.empty(2, 2, 2, 2).to(memory_format=torch.channels_last)
        return product.of(images)

    def make_operands(
        self, batch: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Random gradient of the output and input; images channels last, as in the library."""
        outputs, inputs = self.weight[:2]
        if self.side:
            shapes = [(batch, outputs, *self._places), (batch, inputs, self.side, self.side)]
        else:
            shapes = [(batch * TOKENS, outputs), (batch * TOKENS, inputs)]
        generator = torch.Generator().manual_seed(0)
        kind = torch.channels_last if self.side else torch.preserve_format
        grad, input = (
            torch.randn(shape, generator=generator).to(device, dtype, memory_format=kind)
            for shape in shapes
        )
        return grad, input

    def dense(self, grad: Tensor, input: Tensor) -> Tensor:
        """The dense weight gradient, as torch's own backward computes it."""
        if not self.side:
            return grad.T @ input
        padding = [k // 2 for k in self.weight[2:]]
        return conv2d_weight(input, self.weight, grad, self.stride, padding)

    def flops(self, batch: int) -> int:
        """Floating-point operations of the dense weight gradient."""
        return 2 * batch * math.prod(self._places) * math.prod(self.weight)

    @property
    def _places(self) -> tuple[int, ...]:
        """Where an image's output has values: tokens, or height and width."""
        return (math.ceil(self.side / self.stride),) * 2 if self.side else (TOKENS,)


LAYERS = {
    "vit_s.qkv": Layer((1152, 384)),
    "vit_s.proj": Layer((384, 384)),
    "vit_s.fc1": Layer((1536, 384)),
    "vit_s.fc2": Layer((384, 1536)),
    "vit_b.qkv": Layer((2304, 768)),
    "vit_b.proj": Layer((768, 768)),
    "vit_b.fc1": Layer((3072, 768)),
    "vit_b.fc2": Layer((768, 3072)),
    "resnet50.stem": Layer((64, 3, 7, 7), side=224, stride=2),
    "resnet50.layer1.3x3": Layer((64, 64, 3, 3), side=56),
    "resnet50.layer2.1x1": Layer((512, 128, 1, 1), side=28),
    "resnet50.layer3.3x3": Layer((256, 256, 3, 3), side=14),
    "resnet50.layer4.1x1": Layer((2048, 1024, 1, 1), side=14, stride=2),
    "resnet50.layer4.3x3": Layer((512, 512, 3, 3), side=7),
}


def make_operations(
    layer: Layer, structure_name: str, density: float, grad: Tensor, input: Tensor
) -> tuple[dict[str, Callable[[], Any]], float]:
    """What to time, by name, and the density after rounding to whole units."""
    shape, device, product = layer.weight, grad.device, layer.product
    structure = STRUCTURES[structure_name](shape, BLOCK_SIZE)
    kind = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    weight = torch.zeros(shape, dtype=grad.dtype, device=device).to(memory_format=kind)
    count = count_units(structure, shape, 1 - density)

    def draw_index() -> Tensor:
        return draw(structure, shape, count, seed=0, name="weight", period=1, device=device)

    index = draw_index()
    kept = structure.keep(product, input, index)
    values = structure.gather(weight, index).float()
    operations: dict[str, Callable[[], Any]] = {
        "gradient": lambda: structure.grad(product, grad, kept, index, shape),
        "gather": lambda: structure.gather(weight, index),
        "scatter_": lambda: structure.scatter_(weight, index, values),
        "draw": draw_index,
    }
    if kept is not input:
        operations["narrow"] = lambda: structure.keep(product, input, index)
    if isinstance(product, LinearProduct) and isinstance(structure, Rows | Columns):
        operations["split otherwise"] = lambda: split_otherwise(operations["gradient"])
    return operations, values.numel() / weight.numel()


def split_otherwise(run: Callable[[], Any]) -> Any:
    """Run with the tokens in one piece where the library splits them, and in 16 where not."""
    usual = products.SPLIT
    products.SPLIT = {kind: 16 if parts == 1 else 1 for kind, parts in usual.items()}
    try:
        return run()
    finally:
        products.SPLIT = usual


def time_call(run: Callable[[], Any], seconds: float, threads: int) -> float:
    """Seconds of one call, the median of as many as fit in some seconds."""
    timer = Timer("run()", globals={"run": run}, num_threads=threads)
    return timer.blocked_autorange(min_run_time=seconds).median


def measure_layer(args: argparse.Namespace, layer: Layer) -> dict[str, Any]:
    """All operations of one layer, in turn; by operation its times, one a round."""
    dtype = getattr(torch, args.dtype)
    grad, input = layer.make_operands(args.batch, dtype, args.device)
    tasks: dict[tuple[Any, ...], Callable[[], Any]] = {
        ("dense", 1.0, "gradient"): lambda: layer.dense(grad, input)
    }
    exact: dict[tuple[Any, ...], float] = {("dense", 1.0): 1.0}
    for structure in args.structures:
        for density in args.density:
            made, exact[structure, density] = make_operations(
                layer, structure, density, grad, input
            )
            tasks |= {(structure, density, name): run for name, run in made.items()}
    seconds: dict[tuple[Any, ...], list[float]] = {key: [] for key in tasks}
    for key in in_turn(list(tasks), args.repeats):
        seconds[key].append(time_call(tasks[key], args.seconds, args.threads))
    return {
        "flops": layer.flops(args.batch),
        "operations": [
            {
                "structure": structure,
                "density": density,
                "exact_density": exact[structure, density],
                "operation": operation,
                "seconds": seconds[structure, density, operation],
            }
            for structure, density, operation in tasks
        ],
    }


def measure_peak(args: argparse.Namespace) -> dict[str, list[float]]:
    """Floating-point operations a second of square matrix products; by side, one a round."""
    rates: dict[str, list[float]] = {}
    for side in args.peak_sides or PEAK_SIDES[args.device.type]:
        a, b = (
            torch.randn(side, side, device=args.device).to(getattr(torch, args.dtype))
            for _ in range(2)
        )
        rates[str(side)] = [
            2 * side**3 / time_call(lambda a=a, b=b: a @ b, args.seconds, args.threads)
            for _ in range(args.repeats)
        ]
    return rates


def make_table(results: dict[str, Any]) -> Table:
    """One row a layer, structure and density."""
    setting = results["setting"]
    peak = max(map(max, results["peak_flops_a_second"].values()))
    table = Table(
        title=f"{results['machine']['gpu'] or setting['device']}, {setting['dtype']}, batch "
        f"{setting['batch']}, {setting['threads']} thread(s), peak {peak / 1e12:.3g} TFLOP/s",
        caption="gradient and the rest: time over the dense gradient's, medians of ratios within "
        "rounds, [dim]range[/dim]; of peak: the wanted products alone, a second, over the peak",
    )
    for column in ("layer", "structure", "density"):
        table.add_column(column, no_wrap=True)
    for column in ("dense, ms", "of peak", "gradient", "of peak", *OPERATIONS[1:]):
        table.add_column(column, justify="right", no_wrap=True)
    for name, layer in results["layers"].items():
        by_case: dict[tuple[str, float], dict[str, Any]] = {}
        for each in layer["operations"]:
            by_case.setdefault((each["structure"], each["density"]), {})[each["operation"]] = each
        dense = by_case.pop(("dense", 1.0))["gradient"]["seconds"]
        for (structure, density), operations in by_case.items():
            gradient = operations["gradient"]
            wanted = layer["flops"] * gradient["exact_density"]
            table.add_row(
                *(name, structure, f"{density:g}", f"{1000 * median(dense):.3g}"),
                f"{layer['flops'] / median(dense) / peak:.0%}",
                ratio(gradient["seconds"], dense),
                f"{wanted / median(gradient['seconds']) / peak:.0%}",
                *(
                    ratio(operations[o]["seconds"], dense) if o in operations else "-"
                    for o in OPERATIONS[1:]
                ),
            )
        table.add_section()
    return table


def ratio(seconds: Sequence[float], dense: Sequence[float]) -> str:
    """Times over those of the dense gradient in the same rounds."""
    return spread([ours / theirs for ours, theirs in zip(seconds, dense, strict=True)])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", type=torch.device, default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    add("--batch", type=int, default=8, help="images (default: %(default)s)")
    add("--layers", nargs="+", default=list(LAYERS), choices=LAYERS, help="default: all")
    add("--structures", nargs="+", default=list(STRUCTURES), choices=STRUCTURES)
    add("--density", type=float, nargs="+", default=DENSITIES, help="default: 0.05 0.1 0.5")
    add("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    add("--seconds", type=float, default=0.05, help="of each timing at least (default: 0.05)")
    add("--peak-sides", type=int, nargs="+", help="of the square products that make the peak")
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add("--out", type=Path, default=RESULTS, help="file for the raw values (default: %(default)s)")
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Measures, prints the table, writes the raw values."""
    args = parse(argv)
    # Else cuDNN would round float32 to TF32, and beat a peak that was measured without.
    torch.backends.cudnn.allow_tf32 = False
    results: dict[str, Any] = {
        "schema": 1,
        "setting": {**vars(args), "device": str(args.device), "out": args.out.name},
        **describe_run(args.device, args.threads),
        "peak_flops_a_second": measure_peak(args),
        "layers": {},
    }
    for name in track(args.layers, "layers", console=Console(stderr=True)):
        results["layers"][name] = measure_layer(args, LAYERS[name])
        write_json(args.out, results)
    Console(width=max(Console().width, 180)).print(make_table(results))


if __name__ == "__main__":
    main()
