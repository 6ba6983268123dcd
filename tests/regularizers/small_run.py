"""Training runs of a few steps on images of three domains."""

from functools import partial

import torch
from toy_benchmark import Toy, toy_pretrained

from gmixout.methods import get_method
from gmixout.training import TrainingArguments, train

DOMAINS = ("photo", "sketch", "cartoon")


class Domains(Toy):
    """Noisy images of three domains, the first of which has most."""

    group_names = DOMAINS

    def __init__(self, size=30):
        super().__init__(size, 0.3, seed=1)
        self.groups = torch.arange(size) % 5 % 3
        self.images = self.images + 0.2 * self.groups[:, None, None, None]


def run(method="full", model=None, dataset=None, checkpoint=None, on_progress=None, **settings):
    """The result of a run; `method` may be `a+b` or an instance."""
    method = get_method(method) if isinstance(method, str) else method
    usual = {"steps": 6, "batch_size": 8, "lr": 1e-2, "seed": 3, "log_every_steps": 2}
    arguments = TrainingArguments(**{**usual, **settings})
    return train(
        toy_pretrained(model),
        partial(method.start, seed=arguments.seed),
        Domains() if dataset is None else dataset,
        arguments,
        checkpoint,
        "run",
        on_progress or (lambda step, loss: None),
        regularizers=method.regularizers,
    )


def same(a, b):
    """Whether two runs ended in the same weights, bit for bit, and had the same losses."""
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return a.losses == b.losses and all(torch.equal(x, y) for x, y in pairs)
