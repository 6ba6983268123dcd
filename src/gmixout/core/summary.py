"""Numbers on what a masking process does to a model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gmixout.core.process import MaskedWeight


@dataclass(frozen=True)
class WeightSummary:
    """One masked weight; sizes in entries, memory in bytes."""

    name: str
    kind: str
    path: str
    shape: tuple[int, ...]
    trained: int
    total: int


@dataclass(frozen=True)
class Summary:
    """What is masked, what is trained, and the memory of each kind of state, in bytes."""

    weights: tuple[WeightSummary, ...]
    heads: tuple[str, ...]
    dense: int
    """Entries of parameters outside the masks that are trained: biases, norms, the head."""
    held: int
    """Entries of parameters that the process keeps from being trained."""
    bytes: dict[str, int]

    @property
    def trained(self) -> int:
        """Masked entries that are being trained."""
        return sum(weight.trained for weight in self.weights)

    @property
    def total(self) -> int:
        """All entries of the masked weights."""
        return sum(weight.total for weight in self.weights)

    @property
    def density(self) -> float:
        """The share of the masked weights that is being trained."""
        return self.trained / self.total

    def __str__(self) -> str:
        width = max(len(weight.name) for weight in self.weights)
        lines = [
            f"{w.name:<{width}}  {w.kind:<22} {w.path:<8} {w.trained:>11,} / {w.total:>11,}"
            for w in self.weights
        ]
        lines += [
            f"{len(self.weights)} masked weights: {self.trained:,} of {self.total:,} entries "
            f"trained (density {self.density:.4f}); {self.dense:,} entries trained densely"
            + (f", {self.held:,} held" if self.held else ""),
            f"head: {', '.join(self.heads) or 'none found; name it with attach(head=...)'}",
            "bytes: " + ", ".join(f"{kind} {size:,}" for kind, size in self.bytes.items()),
        ]
        if any(w.path == "fallback" for w in self.weights):
            lines.append(
                "fallback: this layer kind's gradient is computed densely, gathered and freed."
            )
        return "\n".join(lines)


def summarize(
    weights: Mapping[str, MaskedWeight],
    fast: Mapping[str, bool],
    heads: tuple[str, ...],
    dense: Sequence[nn.Parameter],
    held: Sequence[nn.Parameter],
    optimizer: Sequence[Tensor],
    carried: Mapping[str, Mapping[str, Tensor]],
) -> Summary:
    """Count entries and bytes.

    Args:
        weights: The masked weights, by name.
        fast: Whether their gradients are computed for the masked part alone.
        heads: Names of the heads' modules.
        dense: What is trained beside the masks.
        held: What the process keeps from being trained.
        optimizer: The optimizer's state of the masked values.
        carried: The moments that are kept for entries outside the mask.
    """
    masks = weights.values()
    copies: Counter[str] = Counter()
    for masked in masks:
        copies.update({kind: dense.nbytes for kind, dense in masked.residual.dense.items()})
    return Summary(
        weights=tuple(
            WeightSummary(
                name=name,
                kind=type(masked.owner).__name__,
                path="fast" if fast[name] else "fallback",
                shape=tuple(masked.weight.shape),
                trained=masked.values.numel(),
                total=masked.weight.numel(),
            )
            for name, masked in weights.items()
        ),
        heads=heads,
        dense=sum(parameter.numel() for parameter in dense),
        held=sum(parameter.numel() for parameter in held),
        bytes={
            "values": sum(m.values.nbytes for m in masks),
            "gradient": sum(m.values.nbytes for m in masks),
            "optimizer": sum(tensor.nbytes for tensor in optimizer),
            "anchor": sum(m.held.nbytes for m in masks),
            "index": sum(m.index.nbytes for m in masks),
            "residual": copies["residual"],
            "pretrained": copies["pretrained"],
            "carried moments": sum(t.nbytes for each in carried.values() for t in each.values()),
        },
    )
