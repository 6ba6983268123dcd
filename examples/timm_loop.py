"""timm's loop: its optimizer, scheduler, average, gradient clipping, checkpoints and resume.

    python examples/timm_loop.py                   # a tiny ViT on scikit-learn's digits, seconds
    python examples/timm_loop.py --model vit_base_patch16_224.augreg_in21k --out runs/vit

timm's own train.py takes the same lines (docs/trainers.md). Stop it whenever you like: the same
command goes on from the last epoch, to the same weights.
"""

import argparse
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timm.models import load_checkpoint, model_parameters, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, ModelEmaV3, dispatch_clip_grad
from torch.nn.functional import cross_entropy, interpolate

import gmixout

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a name of timm's, with its pretrained weights")
parser.add_argument("--out", default="runs/timm_loop")
args = parser.parse_args()
torch.manual_seed(0)
epochs, batch, out = 4, 32, Path(args.out)
out.mkdir(parents=True, exist_ok=True)

sizes = {} if args.model else {"img_size": 32}
name = args.model or "test_vit"
model = timm.create_model(name, pretrained=bool(args.model), num_classes=10, **sizes)
size = model.pretrained_cfg["input_size"][-1] if args.model else 32
digits, labels = load_digits(return_X_y=True)
pixels = interpolate(torch.tensor(digits, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, size)
pixels, labels = pixels.expand(-1, 3, -1, -1), torch.tensor(labels)

masked = gmixout.attach(model, gmixout.GMixout())  # one
groups = masked.param_groups(lr=3e-3, weight_decay=0.05)
optimizer = masked.bind(create_optimizer_v2(groups, opt="adamw", lr=3e-3))  # two

updates = 1400 // batch
scheduler, _ = create_scheduler_v2(
    optimizer, num_epochs=epochs, warmup_epochs=1, updates_per_epoch=updates, step_on_epochs=False
)
first, last = 0, out / "last.pth.tar"
if last.exists():
    first = resume_checkpoint(model, str(last), optimizer=optimizer)
    scheduler.step_update(first * updates)
average = ModelEmaV3(model, decay=0.9)  # of the whole model
if last.exists():
    load_checkpoint(average.module, str(last), use_ema=True)
saver = CheckpointSaver(
    model, optimizer, args, average, checkpoint_dir=str(out), recovery_dir=str(out)
)
for epoch in range(first, epochs):
    model.train()
    order = torch.randperm(1400, generator=torch.Generator().manual_seed(epoch))
    for update, chosen in enumerate(order[: updates * batch].split(batch), epoch * updates + 1):
        cross_entropy(model(pixels[chosen]), labels[chosen]).backward()
        dispatch_clip_grad(model_parameters(model), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step=update)
        scheduler.step_update(update)
    average.module.eval()
    with torch.inference_mode():
        accuracy = (average.module(pixels[1400:]).argmax(-1) == labels[1400:]).float().mean()
    print(f"epoch {epoch}: accuracy {accuracy:.3f}")
    saver.save_checkpoint(epoch, metric=float(accuracy))

torch.save(masked.detach().state_dict(), out / "final.pt")
torch.save(average.module.state_dict(), out / "average.pt")
