"""A linear probe as the initial head, fitted on frozen features."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gmixout.errors import ConfigError
from gmixout.loading import make_loader
from gmixout.models.pretrained import Pretrained
from gmixout.tasks import DEFAULT_TASK, LearningTask

ROWS = 2**14
"""Images whose logits are in memory at once."""


def linear_probe_head(
    pretrained: Pretrained,
    dataset: Dataset[Any],
    penalty: float = 1e-4,
    steps: int = 200,
    batch_size: int = 64,
    workers: int | None = None,
    device: torch.device | str = "cpu",
    task: LearningTask = DEFAULT_TASK,
) -> Pretrained:
    """Return a copy whose head is fitted to a data set, on the features of the frozen backbone.

    Multinomial logistic regression by L-BFGS from zero; for other tasks than one class an image
    logistic regression of each class, or ridge regression of standardized numbers. It is convex, so
    the result does not depend on the previous head. As the start of finetuning it is the first half
    of LP-FT.

    Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022.

    Args:
        pretrained: Unchanged; its model is copied.
        dataset: `(image [3, H, W], label)`, images as `pretrained.transform` makes them.
        penalty: Half of it times the squared norm of the weight is added to the mean cross entropy.
        steps: Iterations of L-BFGS at most.
        batch_size: Images that are encoded at once.
        workers: Processes that load images; by default see `loading_processes`.
        device: Where features are computed.
        task: What the model is to say of an image.

    Raises:
        ConfigError: The penalty is negative, or the model has not exactly one linear head.
    """
    if penalty < 0:
        raise ConfigError(f"linear_probe_head(penalty={penalty}) must be 0 or more")
    model, heads = copy.deepcopy(pretrained.model), pretrained.heads
    head = model.get_submodule(heads[0]) if len(heads) == 1 else None
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"{pretrained.name} must have one linear head, and has {heads or 'none'}")
    features, labels = _features(model.to(device), head, dataset, batch_size, workers)
    weight, bias = _fit(features, labels, head, penalty, steps, task)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)
    description = pretrained.description.rpartition("; ")[0]
    made = f"linear probe on {len(labels):,} images (penalty {penalty:g})"
    return replace(
        pretrained,
        model=model.cpu(),
        head_from="linear_probe",
        description=f"{description}; {made}",
    )


@torch.no_grad()
def _features(
    model: nn.Module, head: nn.Module, dataset: Dataset[Any], batch_size: int, workers: int | None
) -> tuple[Tensor, Tensor]:
    """Return the head's inputs for each image `[N, features]`, and the labels `[N]`."""
    device = next(model.parameters()).device
    batches = make_loader(dataset, device, workers, batch_size=batch_size)
    features: list[Tensor] = []
    labels: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].cpu()))
    try:
        for images, targets in batches:
            model(images.to(device))
            labels.append(targets)
    finally:
        hook.remove()
    return torch.cat(features), torch.cat(labels)


def _fit(
    features: Tensor,
    labels: Tensor,
    head: nn.Linear,
    penalty: float,
    steps: int,
    task: LearningTask,
) -> tuple[Tensor, Tensor]:
    """Fit the weight `[classes, features]` and bias `[classes]` (zero for a head without one)."""
    # in float64, as solvers of this kind stop early on the noise of float32
    weight = torch.zeros(head.weight.shape, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=head.bias is not None)
    # the logits of all of ImageNet's images at a time would be 10 GB, and several such in backward
    parts = list(zip(torch.split(features, ROWS), torch.split(labels, ROWS), strict=True))
    solver: Any = torch.optim.LBFGS(
        [weight, *([bias] if bias.requires_grad else [])],
        max_iter=steps,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        solver.zero_grad()
        loss: Any = penalty / 2 * weight.square().sum()
        loss.backward()
        total = float(loss.detach())
        for x, y in parts:
            loss = task.fit_loss(x.double() @ weight.T + bias, y) / len(labels)
            loss.backward()
            total += float(loss.detach())
        return total

    solver.step(objective)
    return weight.detach(), bias.detach()
