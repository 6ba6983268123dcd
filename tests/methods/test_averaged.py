import torch
from small_models import ALL, Run, cnn, copied, difference, vit
from toy_benchmark import toy_pretrained

from gmixout.methods import get_method
from gmixout.methods.average import Averaged

DECAY = 0.75


def averaged(name, model):
    """A run of a method and the average beside it."""

    class Wrapped:
        def start(self, pretrained, seed):
            return Averaged(ALL[name].start(pretrained, seed), DECAY)

    return Run(Wrapped(), model)


def assert_average(name, make):
    plain, run = Run(name, make()), averaged(name, make())
    expected = {key: value.double() for key, value in make().state_dict().items()}
    for _ in range(4):
        run.steps(1)
        for key, value in plain.steps(1).finetuning.snapshot().items():
            new = DECAY * expected[key] + (1 - DECAY) * value.double()
            expected[key] = new if value.is_floating_point() else value.double()
    # what is averaged goes on as it would alone
    assert difference(plain.model.state_dict(), run.model.state_dict()) == set()
    end = run.finetuning.detach().state_dict()
    torch.testing.assert_close({k: v.double() for k, v in end.items()}, expected)
    assert difference(end, plain.finetuning.snapshot())


def test_the_average_of_any_method_starts_at_the_pretrained_weights():
    for name in ("full", "lp_ft", "lora", "gmixout", "mixout"):
        assert_average(name, vit)


def test_running_statistics_are_averaged_and_counters_are_not():
    assert_average("full", cnn)
    assert averaged("full", cnn()).steps(3).finetuning.snapshot()["norm.num_batches_tracked"] == 3


def test_half_precision_weights_are_averaged_in_float32():
    start = vit().bfloat16().state_dict()
    model = vit().bfloat16()
    average = Averaged(get_method("full").start(toy_pretrained(model), 0), 0.99)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.abs() * 0.01)
    for _ in range(50):  # steps far below the resolution of bfloat16
        average._after_step()
    moved = average.snapshot()["blocks.0.attn.qkv.weight"]
    assert moved.dtype == torch.bfloat16
    assert difference({"w": moved}, {"w": start["blocks.0.attn.qkv.weight"]})


def test_the_method_is_the_average_of_full_finetuning():
    method = Run(get_method("ema", decay=DECAY), vit()).steps(3).finetuning.snapshot()
    wrapped = averaged("full", vit()).steps(3).finetuning.snapshot()
    assert difference(copied(method), copied(wrapped)) == set()


def test_swa_is_the_mean_of_the_pretrained_weights_and_every_snapshot():
    for of in ("full", "gmixout"):
        plain, members = Run(of, vit()), [copied(vit().state_dict())]
        for step in range(1, 8):
            plain.steps(1)
            if step in (3, 6, 7):  # the last is always one
                members.append(copied(plain.finetuning.snapshot()))
        run = Run(get_method("swa", of=ALL[of], every=3), vit()).steps(7)
        for key, value in run.finetuning.snapshot().items():
            mean = torch.stack([member[key].double() for member in members]).mean(0)
            torch.testing.assert_close(value.double(), mean, atol=1e-6, rtol=1e-5)
        assert len(members) == 4
