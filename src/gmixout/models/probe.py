"""A linear probe as the initial head, fitted on frozen features."""

from collections.abc import Callable
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
    pretrained = pretrained.copy()
    model, head = pretrained.model, _linear_head(pretrained)
    features, labels = head_inputs(pretrained, dataset, device, None, batch_size, workers)
    has_bias = head.bias is not None
    weight, bias = fit_head(features, labels, len(head.weight), penalty, steps, task, has_bias)
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


def _linear_head(pretrained: Pretrained) -> nn.Linear:
    heads = pretrained.heads
    head = pretrained.model.get_submodule(heads[0]) if len(heads) == 1 else None
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"{pretrained.name} must have one linear head, and has {heads or 'none'}")
    return head


@torch.no_grad()
def head_inputs(
    pretrained: Pretrained,
    dataset: Dataset[Any],
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] | None = None,
    batch_size: int = 64,
    workers: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the head's inputs for each image `[N, features]`, and the labels.

    Args:
        pretrained: Its model is moved to the device.
        dataset: `(image [3, H, W], label)`, images as `pretrained.transform` makes them.
        device: Where features are computed.
        advance: Called with the number of images that are done.
        batch_size: Images that are encoded at once.
        workers: Processes that load images; by default see `loading_processes`.

    Raises:
        ConfigError: The model has not exactly one linear head.
    """
    head, model, device = (
        _linear_head(pretrained),
        pretrained.model.to(device),
        torch.device(device),
    )
    batches = make_loader(dataset, device, workers, batch_size=batch_size)
    features: list[Tensor] = []
    labels: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].cpu()))
    try:
        for images, targets in batches:
            model(images.to(device))
            labels.append(targets)
            if advance is not None:
                advance(sum(map(len, labels)))
    finally:
        hook.remove()
    return torch.cat(features), torch.cat(labels)


def fit_head(
    features: Tensor,
    labels: Tensor,
    outputs: int,
    penalty: float,
    steps: int,
    task: LearningTask = DEFAULT_TASK,
    has_bias: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the weight `[outputs, features]` and bias `[outputs]` of a linear probe, float64.

    Args:
        features: `[N, features]`.
        labels: As the task has them.
        outputs: Number of classes or numbers.
        penalty: Half of it times the squared norm of the weight is added to the mean loss.
        steps: Iterations of L-BFGS at most.
        task: What the head is to say of an image.
        has_bias: False: the bias is zero.
    """
    # in float64, as solvers of this kind stop early on the noise of float32
    size = (outputs, features.shape[1])
    weight = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=has_bias)
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
