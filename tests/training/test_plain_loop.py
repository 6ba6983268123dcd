"""Where nothing is asked for, the loop takes the steps that a script of thirty lines would take."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_benchmark import net, toy, toy_pretrained

import gmixout
from gmixout.methods import get_method
from gmixout.training import TrainingArguments, train

STEPS, BATCH, SEED, LR, HEAD_LR, DECAY = 50, 7, 3, 3e-3, 1e-2, 0.1

CONFIGS = {
    "full": None,
    "gmixout": gmixout.GMixout(resample_every=7, seed=SEED),
    "mixout": gmixout.mixout(mask_rate=0.7, seed=SEED),
}


def order(examples):
    generator = torch.Generator().manual_seed(SEED)
    while True:
        yield from torch.randperm(examples, generator=generator).tolist()


def by_hand(config):
    """Losses and final weights of a training loop as one writes it down."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)  # dropout
        return steps_by_hand(config)


def steps_by_hand(config):
    model, data = net().train(), toy().train
    if config is None:
        body = [p for n, p in model.named_parameters() if not n.startswith("head.")]
        groups = [
            {"params": body, "lr": LR},
            {"params": list(model.head.parameters()), "lr": HEAD_LR},
        ]
    else:
        masked = gmixout.attach(model, config)
        groups = masked.param_groups(lr=LR, head_lr=HEAD_LR)
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=DECAY, fused=True)
    if config is not None:
        optimizer = masked.bind(optimizer)
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses, places = [], order(len(data))
    for step in range(STEPS):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (0.5 * (1.0 + math.cos(math.pi * (step / STEPS))))
        items = [data[place] for place in itertools.islice(places, BATCH)]
        images = torch.stack([image for image, _ in items])
        loss = cross_entropy(model(images), torch.tensor([label for _, label in items]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, (model if config is None else masked.detach()).state_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_fifty_steps_are_those_of_a_loop_by_hand(name):
    options = {"full": {}, "gmixout": {"resample_every": 7}, "mixout": {}}[name]
    method = get_method(name, **options)
    settings = TrainingArguments(
        steps=STEPS, batch_size=BATCH, seed=SEED, lr=LR, head_lr=HEAD_LR, weight_decay=DECAY
    )
    found = train(toy_pretrained(), lambda m: method.start(m, SEED), toy().train, settings)
    losses, weights = by_hand(CONFIGS[name])
    assert found.losses == losses
    assert len(set(losses)) > STEPS // 2
    for key, value in found.model.state_dict().items():
        assert torch.equal(value, weights[key]), key
