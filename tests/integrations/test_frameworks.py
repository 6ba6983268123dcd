"""Killed in mid-run and resumed by each framework's own means: bit-equal to a run that was not."""

import subprocess
import sys
from pathlib import Path

import framework_runs as runs
import pytest
import torch
from tiny import same_state

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the frameworks
]


@pytest.fixture(scope="module")
def killed(request, tmp_path_factory) -> tuple[str, Path]:
    """A framework, and what its runs left when they were killed, in a folder a setting."""
    framework = request.param
    pytest.importorskip(runs.LIBRARIES[framework])
    folder = tmp_path_factory.mktemp(framework)
    words = [sys.executable, "-W", "ignore", runs.__file__]
    end = subprocess.run(
        [*words, framework, str(folder), str(runs.SAVED + 2)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 0, end.stderr
    return framework, folder


@pytest.mark.parametrize("setting", runs.CONFIGS)
@pytest.mark.parametrize("killed", runs.RUNS, indirect=True)
def test_killed_and_resumed_is_bit_equal(killed, setting, tmp_path: Path):
    framework, folder = killed
    run, config = runs.RUNS[framework], runs.CONFIGS[setting]
    never = runs.Killed(-1)
    straight = run(tmp_path, False, never, config)
    resumed = run(folder / setting, True, never, config)
    assert straight.steps == resumed.steps == runs.STEPS
    assert straight.period == runs.STEPS // config.resample_every
    averages = [getattr(masked, "average", None) for masked in (straight, resumed)]
    if averages[0] is not None:
        assert same_state(*averages)
        plain = runs.Net().eval()
        plain.load_state_dict(averages[0].state_dict())
        expected = plain(runs.IMAGES)
        torch.testing.assert_close(averages[0].eval()(runs.IMAGES), expected)
    finals = [masked.detach() for masked in (straight, resumed)]
    assert same_state(*finals)
    start = runs.start(config)[1].detach()
    assert not torch.equal(finals[0].hidden.weight, start.hidden.weight)


def test_a_trainer_that_makes_its_own_optimizer_says_so(tmp_path: Path):
    """`Trainer(model)` with nothing bound: it ends at its first step, and names the way on."""
    transformers = pytest.importorskip("transformers")
    net, masked = runs.start(runs.CONFIG)
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, use_cpu=True, report_to=[], disable_tqdm=True
    )
    data = [{"pixel_values": runs.IMAGES[0], "labels": 1}] * 8
    trainer = transformers.Trainer(net, arguments, train_dataset=data)
    with pytest.raises(runs.gmixout.GmixoutError, match=r"masked\.bind"):
        trainer.train()
    assert masked.steps == 0


def test_a_second_fit_and_a_search_of_the_rate_before_it():
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.tuner import Tuner

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.lr = 1e-3
            self.net, self.masked = runs.start(runs.CONFIG)

        def training_step(self, batch, index):
            return self.net(*batch)["loss"]

        def configure_optimizers(self):
            return self.masked.bind(torch.optim.AdamW(self.masked.param_groups(lr=self.lr)))

    def trainer():
        return lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    data = torch.utils.data.TensorDataset(runs.IMAGES, runs.LABELS)
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    module = Module()
    before = {n: v.clone() for n, v in module.net.state_dict().items()}
    Tuner(trainer()).lr_find(module, loader, num_training=7)
    assert module.masked.steps == 0
    assert all(torch.equal(before[n], v) for n, v in module.net.state_dict().items())
    trainer().fit(module, loader)
    trainer().fit(module, loader)
    assert module.masked.steps == 10


def test_averages_that_are_swapped_in_are_what_is_validated():
    torch_ema = pytest.importorskip("torch_ema")
    net, masked = runs.start(runs.gmixout.random_mask(0.5))
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
    average = torch_ema.ExponentialMovingAverage(net.parameters(), decay=0.5)
    for _ in range(4):
        net(runs.IMAGES, runs.LABELS)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()
    live = net(runs.IMAGES)
    with average.average_parameters():
        averaged = net(runs.IMAGES)
        plain = runs.Net()
        plain.load_state_dict(net.state_dict())
        torch.testing.assert_close(averaged, plain(runs.IMAGES))
    assert not torch.allclose(live, averaged)
    assert torch.equal(net(runs.IMAGES), live)


def test_a_range_test_leaves_no_trace():
    torch_lr_finder = pytest.importorskip("torch_lr_finder")
    data = torch.utils.data.TensorDataset(runs.IMAGES, runs.LABELS)
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    for config in runs.CONFIGS.values():
        net, masked = runs.start(config)
        before = {n: v.clone() for n, v in net.state_dict().items()}
        optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-6)))
        finder = torch_lr_finder.LRFinder(net, optimizer, torch.nn.CrossEntropyLoss(), device="cpu")
        finder.range_test(loader, end_lr=1e-1, num_iter=7)
        finder.reset()
        assert (masked.steps, masked.period) == (0, 0)
        for state in (masked.snapshot(), masked.anchor()):
            assert all(torch.equal(before[n], v) for n, v in state.items())
        assert not any(moment.any() for w in masked.state_dict()["moments"].values() for moment in w.values())  # fmt: skip  # noqa: E501
