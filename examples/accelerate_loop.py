"""Accelerate: bind before `prepare`; `save_state` carries the process.

    python examples/accelerate_loop.py             # a tiny ViT on scikit-learn's digits, seconds
    accelerate launch examples/accelerate_loop.py --model vit_base_patch16_224.augreg_in21k

Stop it whenever you like: the same command goes on from the last epoch, to the same weights.
"""

import argparse
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, TensorDataset

import gmixout

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a name of timm's, with its pretrained weights")
parser.add_argument("--out", default="runs/accelerate_loop")
args = parser.parse_args()
set_seed(0)
epochs, out = 4, Path(args.out)

sizes = {} if args.model else {"img_size": 32}
name = args.model or "test_vit"
model = timm.create_model(name, pretrained=bool(args.model), num_classes=10, **sizes)
size = model.pretrained_cfg["input_size"][-1] if args.model else 32
digits, labels = load_digits(return_X_y=True)
pixels = interpolate(torch.tensor(digits, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, size)
data = TensorDataset(pixels.expand(-1, 3, -1, -1), torch.tensor(labels))
train, val = (torch.utils.data.Subset(data, r) for r in (range(1400), range(1400, 1797)))

accelerator = Accelerator(
    gradient_accumulation_steps=2,
    mixed_precision="bf16",
    dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
)
masked = gmixout.attach(model, gmixout.GMixout())  # one
optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=3e-3, weight_decay=0.01)))  # two
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
model, optimizer, loader, loader_val, schedule = accelerator.prepare(
    model, optimizer, DataLoader(train, 16, shuffle=True), DataLoader(val, 256), schedule
)

done = sorted(out.glob("epoch-?"))
if done:
    accelerator.load_state(str(done[-1]))
for epoch in range(len(done), epochs):
    model.train()
    loader.set_epoch(epoch)
    for images, targets in loader:
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(images), targets))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    schedule.step()
    model.eval()
    with torch.inference_mode():
        hits = [model(images).argmax(-1) == targets for images, targets in loader_val]
    accuracy = accelerator.gather_for_metrics(torch.cat(hits)).float().mean()
    accelerator.print(f"epoch {epoch}: accuracy {accuracy:.3f}, {masked.steps} steps")
    accelerator.save_state(str(out / "unfinished"))
    if accelerator.is_main_process:
        (out / "unfinished").rename(out / f"epoch-{epoch}")  # whole, or not there
    accelerator.wait_for_everyone()

if accelerator.is_main_process:
    torch.save(masked.detach().state_dict(), out / "final.pt")  # timm's own keys
