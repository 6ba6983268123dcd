"""One small run in each framework, as its users write it; none of them knows of a masking process.

`python framework_runs.py FRAMEWORK FOLDER STEP` makes a run of each setting in a process that is
killed by itself at a step.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gmixout

STEPS, SAVED = 10, 5
CONFIG = gmixout.GMixout(mask_rate=0.5, resample_every=3)
CARRIED = gmixout.mixout(0.5, resample_every=2)

generator = torch.Generator().manual_seed(0)
IMAGES = torch.randn(40, 3, 8, 8, generator=generator)
LABELS = torch.arange(40) % 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), nn.Flatten())
        self.hidden = nn.Linear(72, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, pixel_values, labels=None):
        logits = self.head(torch.tanh(self.hidden(self.body(pixel_values))))
        if labels is None:
            return logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def start(config):
    torch.manual_seed(0)
    net = Net()
    return net, gmixout.attach(net, config)


class Killed:
    """Ends the process at a step as the system does: nothing is flushed, closed or saved."""

    def __init__(self, step):
        self.step = step

    def __call__(self, done):
        if done == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def hugging_face(folder: Path, resume: bool, at: Killed, config=CONFIG):
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            at(state.global_step)

    net, masked = start(config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3, weight_decay=0.1)))
    data = [{"pixel_values": i, "labels": y} for i, y in zip(IMAGES, LABELS, strict=True)]
    arguments = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        save_steps=SAVED,
        per_device_train_batch_size=8,
        seed=3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(
        net, arguments, train_dataset=data, optimizers=(optimizer, None), callbacks=[Kill()]
    )
    trainer.train(resume_from_checkpoint=resume)
    return masked


def lightning(folder: Path, resume: bool, at: Killed, config=CONFIG):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.masked = start(config)

        def training_step(self, batch, index):
            return self.net(*batch)["loss"]

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.masked.param_groups(lr=1e-3))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            return {
                "optimizer": self.masked.bind(optimizer),
                "lr_scheduler": {"scheduler": schedule, "interval": "step"},
            }

        def on_train_batch_end(self, outputs, batch, index):
            at(self.global_step)

    saving = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, every_n_train_steps=SAVED, save_last=True, save_top_k=-1
    )
    module = Module()
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)
    last = folder / "last.ckpt" if resume else None
    trainer.fit(module, loader, ckpt_path=last, **({"weights_only": True} if resume else {}))
    return module.masked


def accelerate(folder: Path, resume: bool, at: Killed, config=CONFIG):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    net, masked = start(config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4)
    model, optimizer, loader, schedule = accelerator.prepare(net, optimizer, loader, schedule)
    done = 0
    if resume:
        accelerator.load_state(folder / "state")
        done = SAVED
    while done < STEPS:
        for images, labels in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(images, labels)["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                done += 1
                if done == SAVED and not resume:
                    accelerator.save_state(folder / "state")
                at(done)
                if done == STEPS:
                    break
    return masked


def timm(folder: Path, resume: bool, at: Killed, config=CONFIG):
    """As timm's train.py: its optimizer, scheduler, average, clipping, saver and resume."""
    import argparse

    from timm.models import model_parameters, resume_checkpoint
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import CheckpointSaver, ModelEmaV3, dispatch_clip_grad

    net, masked = start(config)
    groups = masked.param_groups(lr=1e-3, weight_decay=0.05)
    optimizer = masked.bind(create_optimizer_v2(groups, opt="adamw", lr=1e-3))
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=2, updates_per_epoch=SAVED, step_on_epochs=False
    )
    average = ModelEmaV3(net, decay=0.5)
    folder.mkdir(parents=True, exist_ok=True)
    saver = CheckpointSaver(
        model=net,
        optimizer=optimizer,
        args=argparse.Namespace(model="net"),
        model_ema=average,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    first = 0
    if resume:
        last = str(folder / "last.pth.tar")
        first = resume_checkpoint(net, last, optimizer=optimizer, log_info=False)
        saved = torch.load(last, weights_only=False)
        average.module.load_state_dict(saved["state_dict_ema"])
        scheduler.step_update(first * SAVED)
    for epoch in range(first, 2):
        net.train()
        for index in range(SAVED):
            images, labels = IMAGES[index * 8 :][:8], LABELS[index * 8 :][:8]
            net(images, labels)["loss"].backward()
            dispatch_clip_grad(model_parameters(net), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            done = epoch * SAVED + index + 1
            average.update(net, step=done)
            scheduler.step_update(done)
            at(done)
        saver.save_checkpoint(epoch, metric=float(epoch))
    masked.average = average.module  # for the test to look at
    return masked


RUNS = {f.__name__: f for f in (hugging_face, lightning, accelerate, timm)}
CONFIGS = {"reset": CONFIG, "carried moments": CARRIED}

LIBRARIES = {name: name for name in RUNS} | {"hugging_face": "transformers"}

if __name__ == "__main__":
    torch.set_num_threads(1)
    framework, folder, step = sys.argv[1:]
    # here, and not in each process: it takes longer than the runs
    import_module({"hugging_face": "transformers.trainer"}.get(framework, framework))
    for setting, config in CONFIGS.items():
        if (child := os.fork()) == 0:
            RUNS[framework](Path(folder) / setting, False, Killed(int(step)), config)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == -signal.SIGKILL, f"{setting} was not killed but ended with {code}"
