"""torchvision's reference loop: warm-up, mixed precision, clipping, an average, `checkpoint.pth`.

    python examples/torchvision_loop.py            # a tiny ViT on scikit-learn's digits, seconds
    python examples/torchvision_loop.py --model resnet50 --out runs/resnet50

Stop it whenever you like: the same command goes on from the last epoch, to the same weights.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset
from torchvision.models import VisionTransformer, get_model, get_model_weights

import gmixout

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a name of torchvision's, with its default weights")
parser.add_argument("--out", default="runs/torchvision_loop")
args = parser.parse_args()
torch.manual_seed(0)
epochs, device = 5, "cuda" if torch.cuda.is_available() else "cpu"
checkpoint = Path(args.out, "checkpoint.pth")
checkpoint.parent.mkdir(parents=True, exist_ok=True)

if args.model:  # the pretrained weights, but for a head of other classes
    model, size = get_model(args.model, num_classes=10), 224
    pretrained, own = get_model_weights(args.model).DEFAULT.get_state_dict(), model.state_dict()
    fits = {k: v for k, v in pretrained.items() if v.shape == own[k].shape}
    model.load_state_dict(own | fits)
else:
    model, size = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10), 32
model.to(device)
digits, labels = load_digits(return_X_y=True)
pixels = interpolate(torch.tensor(digits, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, size)
data = TensorDataset(pixels.expand(-1, 3, -1, -1), torch.tensor(labels))
train, val = Subset(data, range(1400)), DataLoader(Subset(data, range(1400, 1797)), 256)

masked = gmixout.attach(model, gmixout.GMixout())  # one
optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=3e-3, weight_decay=0.05)))  # two

warm_up, decay = LinearLR(optimizer, 0.1, total_iters=1), CosineAnnealingLR(optimizer, epochs - 1)
scheduler = SequentialLR(optimizer, [warm_up, decay], milestones=[1])
scaler = torch.amp.GradScaler(device)  # a step that it skips is none of the process's
average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
parts |= {"scaler": scaler, "average": average}
done = 0
if checkpoint.exists():
    saved = torch.load(checkpoint, map_location=device, weights_only=True)
    done = saved.pop("epochs")
    for name, state in saved.items():
        parts[name].load_state_dict(state)
for epoch in range(done, epochs):
    order = RandomSampler(train, generator=torch.Generator().manual_seed(epoch))
    for images, targets in DataLoader(train, 32, sampler=order):
        with torch.autocast(device):
            loss = cross_entropy(model(images.to(device)), targets.to(device), label_smoothing=0.1)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        average.update_parameters(model)
    scheduler.step()
    with torch.inference_mode():
        hits = [average(x.to(device)).argmax(-1).cpu() == y for x, y in val]
    print(f"epoch {epoch}: accuracy {torch.cat(hits).float().mean():.3f}")
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"epochs": epoch + 1, **states}, f"{checkpoint}.new")
    Path(f"{checkpoint}.new").replace(checkpoint)  # whole, or as it was

torch.save(masked.detach().state_dict(), f"{args.out}/final.pt")  # torchvision's own keys
