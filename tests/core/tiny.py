"""Small models and inputs for the tests of the process."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import gmixout
from gmixout import GMixout, Masked

CUTS = {
    "element": {"structure": "element"},
    "row": {"structure": "row"},
    "column": {"structure": "column"},
    "block": {"structure": "block"},
    "longer side": {"structure": "longer_side"},
    "groups": {"structure": "row", "group_size": 2},
    "bands": {"structure": "longer_side", "group_size": None},
    "neuron": {"structure": "neuron"},
}
"""What may be drawn, by the options of `GMixout`."""
STRUCTURES = tuple(CUTS)
UNPAIRED = tuple(name for name in CUTS if name != "neuron")
"""For models without hidden neurons and attention heads."""


class TinyNet(nn.Module):
    """A convolution, an attention and linear layers; sides that 1/4 and 1/2 divide evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.conv(images).flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(torch.tanh(self.hidden(tokens)).mean(1))


class PlainNet(nn.Sequential):
    """The same without attention, whose two ways through torch differ in the last bit."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 16),
            nn.Tanh(),
            nn.Linear(16, 4),
        )


MASKED_OF_TINY = [
    "conv.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "hidden.weight",
]


def batches(count: int, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches of images `[6, 4, 4, 4]` and labels `[6]` each time."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.randn(6, 4, 4, 4, generator=generator, dtype=torch.float64)
        yield images.to(dtype), torch.randint(0, 4, (6,), generator=generator)


def loss_of(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]
) -> None:
    for batch in data:
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()


def masked_copy(model: nn.Module, config: GMixout, **options: object) -> tuple[nn.Module, Masked]:
    """A copy of the model with a process on it."""
    model = copy.deepcopy(model)
    return model, gmixout.attach(model, config, **options)  # type: ignore[arg-type]


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models hold bit-equal states."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def saved_bytes(model: nn.Module, input: Tensor) -> int:
    """What autograd keeps of a forward pass, each piece of memory once, weights apart."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(input)
    for parameter in (*model.parameters(), *model.buffers()):
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    assert output.requires_grad
    return sum(kept.values())
